"""What watches a training from outside: its speed, its first gradients, its loss."""

import math
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from meft_runner.errors import UserError
from meft_runner.methods.prepare import may_start_without_gradient
from meft_runner.run import processes


class GradientError(RuntimeError):
    """A parameter that should train has no usable gradient."""


class NotFiniteError(UserError):
    """The loss or a first gradient is infinite or not a number."""


@dataclass
class StepTimes(TrainerCallback):
    """Seconds of each optimizer step.

    Attributes:
        seconds: one entry a step of this process, evaluation not counted.
        before: seconds of the steps of earlier processes, where a run is resumed.
    """

    seconds: list[float] = field(default_factory=list)
    before: float = 0.0
    _started: float = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stops the clock."""
        self.seconds.append(time.perf_counter() - self._started)

    @property
    def total(self) -> float:
        """Seconds of all steps of the run."""
        return self.before + sum(self.seconds)

    @property
    def median(self) -> float | None:
        """The median step in seconds, None before the first."""
        return statistics.median(self.seconds) if self.seconds else None


class FirstGradients(TrainerCallback):
    """Stops a run in which something that should train gets no gradient."""

    def __init__(self, scaled: bool) -> None:
        self.scaled = scaled
        self.done = False

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Checks the first step's gradients.

        Raises:
            GradientError: one is missing, or zero where it should not be.
            NotFiniteError: one is not finite.
        """
        if self.done:
            return
        model: nn.Module = kwargs["model"]
        if self.scaled and not all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None):
            return  # the loss scaler is still looking for its scale and skips this step
        self.done = True
        check_gradients(model)


def check_gradients(model: nn.Module) -> None:
    """Makes sure that every trainable parameter has a finite gradient that is not zero throughout.

    Raises:
        NotFiniteError: names one that is not finite.
        GradientError: names those that are missing or zero.
    """
    bad, waiting = [], may_start_without_gradient(model)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            bad.append(f"{name} (none)")
        elif not parameter.grad.isfinite().all():
            raise NotFiniteError(
                f"the gradient of {name} is not finite in the first step. Try training.precision=fp32, and "
                "method.reversal=exact where the method is reversible."
            )
        elif not parameter.grad.any() and name not in waiting:
            bad.append(f"{name} (zero)")
    if bad:
        raise GradientError(f"{len(bad)} trainable parameters have no usable gradient after one step: {', '.join(bad)}")


class LossWatch:
    """Sees the loss of every forward pass of training.

    It reads one number from the device a pass, as the Trainer does by default.

    Args:
        learning_rate: what an error advises to lower.
        precision: fp32, bf16 or fp16.

    Attributes:
        latest: the last loss; None before the first.
    """

    def __init__(self, learning_rate: float, precision: str) -> None:
        self.learning_rate = learning_rate
        self.precision = precision
        self.latest: float | None = None

    def see(self, loss: Tensor, step: int) -> None:
        """Notes a loss, a scalar.

        Args:
            loss: of one forward pass.
            step: the optimizer step that it belongs to, counted from 1.

        Raises:
            NotFiniteError: it is not finite, in this process or in one that trains with it.
        """
        self.latest = loss.item()
        if not processes.any_of(not math.isfinite(self.latest)):
            return
        precision = ", or training.precision=bf16 or fp32" if self.precision == "fp16" else ""
        raise NotFiniteError(
            f"the training loss is {self.latest:g} at step {step} (training.learning_rate={self.learning_rate:g}). "
            f"Try a smaller one, such as training.learning_rate={self.learning_rate / 10:.3g}{precision}."
        )
