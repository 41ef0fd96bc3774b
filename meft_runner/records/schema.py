"""The record of a run: what it holds, with the type and the range of each part that code reads.

Parts may hold more than is named here, as older and newer versions of this program write it; it is kept.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from meft_runner.records.memory import Budget, Memory
from meft_runner.records.settings import Config
from meft_runner.records.types import Count, Number, Part, Positive, Share, Text, Time

SCHEMA_VERSION: Final = 1


class Git(Part):
    """The checkout that a run was made by."""

    commit: Text
    dirty: bool


class Environment(Part):
    """What a run was made by: versions, commit and device; nothing secret."""

    python: Text
    platform: str | None = None
    packages: dict[Text, Text | None]
    git: Git | None
    device: Text
    cpu_count: Count | None = None


class Split(Part):
    """The rows of a split that were used, and a digest of their content and order.

    Attributes:
        rows: how many.
        tokens: of all rows, where a model learns to write them.
        learnt_tokens: those of them that it learns.
        cut: rows that were longer than the longest allowed.
        left_out: rows in which that has left nothing to learn.
    """

    rows: Count
    fingerprint: str
    tokens: Count | None = None
    learnt_tokens: Count | None = None
    cut: Count | None = None
    left_out: Count | None = None


class Data(Part):
    """The rows that a run was made from.

    Attributes:
        source: the folder, files or repository they were read from.
        revision: of the repository, None for files.
        synthetic: whether they are made up.
        kind: of task, such as "glue".
        version: of the task's prompts and preprocessing.
        labels: what is predicted, in words; None where nothing is classified.
        classes: class names in label order, where the rows have named them; None where the settings do.
        splits: what was used of each split.
        notes: what else there is to say of the rows, a sentence each.
    """

    source: str | None = None
    revision: str | None = None
    synthetic: bool
    kind: str | None = None
    version: int | None = None
    labels: str | None = None
    classes: list[str] | None = None
    splits: dict[str, Split] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)


class Epoch(Part):
    """An epoch's mean training loss, and every metric after it as a fraction, None where it is not defined."""

    __pydantic_extra__: dict[str, Number | None] = Field(init=False)
    epoch: Annotated[float, Field(ge=0, le=1e9)]
    step: Count = 0
    train_loss: Number | None = None

    @property
    def metrics(self) -> dict[str, float | None]:
        """The metrics by name."""
        return self.__pydantic_extra__


class Scores(Part):
    """The score of the best and the last epoch, as fractions, None where it is not defined, and all epochs."""

    metric: Text
    best: Share | None
    final: Share | None = None
    history: list[Epoch]

    @property
    def best_epoch(self) -> Epoch | None:
        """The first epoch with the best score; None where there is none."""
        return next((epoch for epoch in self.history if epoch.metrics.get(self.metric) == self.best), None)


class Parameters(Part):
    """How many numbers the model has, how many of them train, and how many layers it has, all stacks together."""

    total: Positive
    trainable: Count
    layers: Count | None = None


class Start(Part):
    """How far the first outputs are from those of the pre-trained model, relative to them; None: not finite.

    Attributes:
        output_distance: of what the head returns.
        hidden_distance: of the last hidden states.
    """

    output_distance: Number | None
    hidden_distance: Number | None = None


class Origin(Part):
    """The earlier run with whose trained weights a run began.

    Attributes:
        run: the name of its folder.
        identity: its own.
        sha256: of its trained weights.
        taken: how many tensors of them were taken.
        anew: names of those that began anew, as a task head does for other labels.
        reason: why they did; None where all were taken.
    """

    run: Text
    identity: Text
    sha256: Text
    taken: Count
    anew: list[str] = Field(default_factory=list)
    reason: str | None = None


class Plain(Part):
    """The trained weights in the plain model, whose layers run one after the other, on the development rows.

    Attributes:
        output_distance: of the coupled model's outputs from the plain one's, relative to them; None: not finite.
        score: of the plain model, as a fraction, None where it is not defined.
        coupled_score: likewise of the model that was trained.
    """

    output_distance: Number | None
    score: Share | None
    coupled_score: Share | None


class Timing(Part):
    """The speed of the training steps."""

    median_step_seconds: Number | None
    tokens_per_second: Number | None = None
    train_seconds: Number | None = None


class Reversal(Part):
    """What the reversible layers found out about their own exactness; `max_error` is None where it is not finite."""

    mode: Text
    checked_steps: Count = 0
    mismatches: Count
    max_error: Number | None = None


class LayerGradient(Part):
    """A layer's gradient beside the stored one: relative error and cosine, None where it is not finite."""

    layer: Text
    error: Number | None
    cosine: Number | None


class Weights(Part):
    """The backbone's weights: where they were read from, in which revision, and their digest."""

    source: str | None = None
    revision: str | None = None
    sha256: str | None = None


class File(Part):
    """A file that a run was made from, or left: what tells it from another one."""

    bytes: Count
    modified_ns: Count
    sha256: Text


class Record(Part):
    """A run, in whatever state.

    Attributes:
        method_version: of its method, in which it was trained; a record that does not say is of the first one.
        files: local files that it was made from by the settings that name them, and its trained weights.
    """

    schema_version: Literal[1]
    identity: Text
    status: Literal["complete", "failed", "pruned", "running"]
    error: str | None
    started: Time
    finished: Time | None
    config: Config
    method_version: Count = 1
    environment: Environment
    data: Data | None
    scores: Scores | None
    parameters: Parameters | None
    start: Start | None = None
    origin: Origin | None = None
    budget: Budget | None = None
    memory: Memory | None
    timing: Timing | None
    reversal: Reversal | None
    gradients: list[LayerGradient] | None = None
    plain_model: Plain | None = None
    weights: Weights | None = None
    files: dict[str, File] | None = None

    @model_validator(mode="after")
    def _gradients_have_a_reversal(self) -> Self:
        if self.gradients and self.reversal is None:
            raise ValueError("gradients without reversal")
        return self


class CompleteRecord(Record):
    """A run that came to its end: what tables and figures are made from."""

    status: Literal["complete"]
    finished: Time
    data: Data
    parameters: Parameters
