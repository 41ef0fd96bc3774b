"""A training step from shapes alone: fake tensors have sizes and lifetimes, but no data."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor, nn

from meft_runner.memory.host import HostMemory
from meft_runner.memory.meters import TrackedMeter
from meft_runner.memory.quantised import tensors_beside
from meft_runner.memory.sampling import SampledChunks
from meft_runner.memory.shapes import ShapeMode, ShapeTensor
from meft_runner.memory.step import StepMemory, measure_step
from meft_runner.memory.training import TrainingStep, training_step
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
        model = build().train()
    for module in model.modules():
        if isinstance(module, ReversibleStack):
            module.monitor, module.cutting = SilentMonitor(), SampledChunks
    with ShapeMode():
        _replace_tensors(model)
        batch = {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in inputs.items()}
        yield training_step(model, batch, autocast)


def predict_step(step: TrainingStep, accumulating: bool = False) -> StepMemory:
    """Predicts what a training step needs, without weights and without the device it would run on.

    Args:
        step: of fake tensors.
        accumulating: whether it adds to the gradients of an earlier pass.
    """
    return measure_step(*step, PredictedMeter(), accumulating, rehearse=False)


def _replace_tensors(model: nn.Module) -> None:
    """Wraps a model's meta tensors as fake CPU tensors; shared ones stay shared."""
    made: dict[int, Tensor] = {}

    def wrapped(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            fake = ShapeTensor(tensor.detach())
            made[id(tensor)] = _parameter(tensor, fake) if isinstance(tensor, nn.Parameter) else fake
        return made[id(tensor)]

    beside = tensors_beside(model)
    for module in model.modules():
        held: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for tensors in held:
            tensors.update({name: wrapped(tensor) for name, tensor in tensors.items() if tensor is not None})
    for (_, name), (owner, tensor) in beside.items():
        replaced = made.get(id(owner), owner)  # int8 weights have them as attributes
        setattr(replaced, name, wrapped(tensor))


def _parameter(parameter: nn.Parameter, fake: ShapeTensor) -> nn.Parameter:
    """Returns a fake tensor as a parameter, with the attributes of the real one, and called by its class's name."""
    made: Any = nn.Parameter(fake, parameter.requires_grad)
    vars(made).update(vars(parameter))  # quantised ones say how
    made.__class__ = _named(type(parameter).__name__)
    return made


@cache
def _named(name: str) -> type[ShapeTensor]:
    """Returns a class of fake tensors of this name, by which peft knows quantised weights."""
    return type(name, (ShapeTensor,), {})
