"""What all ways of fine-tuning have in common."""

from dataclasses import dataclass

from omegaconf import MISSING

from meft_runner.config.fields import setting


@dataclass
class MethodSettings:
    """A way of fine-tuning.

    Attributes:
        name: what is typed.
        learning_rate: the peak learning rate it is usually trained with.
        start_from: the folder of a complete run, with whose trained weights this one begins; None to begin anew.
        started_from: what tells those weights from others, wherever the folder is: that run's identity, and the
            beginning of the weights' digest.
    """

    name: str = setting(MISSING, fixed="Choose one with method=NAME.")
    learning_rate: float = setting(MISSING, (1e-12, 1e3), fixed="Set training.learning_rate.", beside=True)
    start_from: str | None = setting(None, beside=True, path=True)
    started_from: str | None = setting(None, fixed="Set method.start_from=runs/NAME.")

    @property
    def version(self) -> int:
        """Of how these settings are trained; raised when the same ones train otherwise."""
        return 1

    @property
    def reverses(self) -> bool:
        """Whether layers are reversible, so that their activations need not be kept."""
        return False
