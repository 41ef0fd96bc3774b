"""The memory of a training step in a record: measured, and what was planned."""

from meft_runner.records.types import Count, Part, Positive, Text


class Memory(Part):
    """The memory of a training step, in the columns of `meft_runner.memory.StepMemory`."""

    source: Text
    parameters_bytes: Count
    gradients_bytes: Count
    optimizer_bytes: Count
    activations_bytes: Count
    peak_bytes: Count
    activation_paper_bytes: Count
    retained_after_forward_bytes: Count
    host_bytes: Count = 0
    batch_size: Count
    length: Count

    def sizes(self) -> dict[str, int]:
        """Returns the columns that are bytes."""
        return {name: value for name, value in self if name.endswith("_bytes")}


class Budget(Part):
    """How a run's memory budget was planned.

    Attributes:
        budget_bytes: what it was given.
        stored_layers: how many top layers keep their activations: the most that it holds.
        predicted_peak_bytes: of a step with so many.
    """

    budget_bytes: Positive
    stored_layers: Count
    predicted_peak_bytes: Positive
