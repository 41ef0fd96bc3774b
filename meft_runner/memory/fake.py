"""A training step from shapes alone: fake tensors have sizes and lifetimes, but no data."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from meft_runner.memory.host import HostMemory
from meft_runner.memory.meters import TrackedMeter
from meft_runner.memory.sampling import SampledChunks
from meft_runner.memory.shapes import ShapeMode
from meft_runner.memory.step import StepMemory, measure_step
from meft_runner.memory.training import TrainingStep, training_step
from meft_runner.memory.twin import twin
from meft_runner.reversible import ReversalMonitor, ReversibleStack

Shapes = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


class PredictedMeter(TrackedMeter):
    """Follows the storages of fake tensors."""

    source = "predicted"

    def __init__(self) -> None:
        super().__init__()
        self._shapes = ShapeMode()
        self._checkpoints = HostMemory()

    def __enter__(self) -> Self:
        """Starts counting, on the device and on the host."""
        super().__enter__()
        self._entered[-1].enter_context(self._checkpoints.receiving())
        return self

    def host_bytes(self) -> int:
        """Returns the bytes that wait on the host now: of checkpointing, or of the engine."""
        return self._checkpoints.live_bytes + super().host_bytes()

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs an operation without data; at once, since a second mode would cost a second dispatch."""
        return self._shapes.run(func, args, kwargs)


class SilentMonitor(ReversalMonitor):
    """Checks nothing: fake tensors have no values to check."""

    def check_peaks(self, *args: Any) -> None:
        """Does nothing."""

    def check_rebuilt(self, *args: Any) -> None:
        """Does nothing."""


@contextmanager
def fake_step(build: Callable[[], nn.Module], inputs: Shapes, autocast: torch.dtype | None) -> Iterator[TrainingStep]:
    """Makes a training step of fake tensors, to be run inside the context.

    Args:
        build: makes a prepared model; it is called with tensors on the meta device, since peft's models cannot be
            built of fake ones.
        inputs: shape and dtype of each of the model's inputs, labels included.
        autocast: the dtype of autocast, None for float32.
    """
    with torch.device("meta"):
        model = build()
    with ShapeMode():
        batch = {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in inputs.items()}
        yield twin_step(model, batch, autocast)


def twin_step(model: nn.Module, batch: Mapping[str, Tensor], autocast: torch.dtype | None) -> TrainingStep:
    """Returns a training step of fake tensors of a model's own, to be made and run in `ShapeMode`.

    Args:
        model: prepared; it stays as it is.
        batch: its inputs with labels: fake ones, or real ones on the CPU, whose values a model may decide by.
        autocast: the dtype of autocast, None for float32.
    """
    made = twin(model).train()
    for module in made.modules():
        if isinstance(module, ReversibleStack):
            module.monitor, module.cutting = SilentMonitor(), SampledChunks
    return training_step(made, batch, autocast)


def predict_step(step: TrainingStep, accumulating: bool = False) -> StepMemory:
    """Predicts what a training step needs, without weights and without the device it would run on.

    Args:
        step: of fake tensors.
        accumulating: whether it adds to the gradients of an earlier pass.
    """
    return measure_step(*step, PredictedMeter(), accumulating, rehearse=False)
