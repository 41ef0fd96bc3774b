"""Live bytes over one training step."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from meft_runner.memory.fake import PredictedMeter
from meft_runner.memory.step import end_step, held_tensors, make_optimizer_state


@dataclass
class Timeline:
    """Live bytes after each operation of a training step.

    Attributes:
        live_bytes: one number an operation.
        backward: index of the first operation of the backward pass.
        optimizer: index of the optimizer's first operation.
    """

    live_bytes: list[int] = field(default_factory=list)
    backward: int = 0
    optimizer: int = 0


class TimelineMeter(PredictedMeter):
    """Writes the live bytes down after each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.timeline = Timeline()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and follows what it returns."""
        result = super().__torch_dispatch__(func, types, args, kwargs)
        self.timeline.live_bytes.append(self.live_bytes())
        return result


def trace_step(model: nn.Module, optimizer: torch.optim.Optimizer, forward: Callable[[], Tensor]) -> Timeline:
    """Runs one training step, with the optimizer's state made before it, and returns its timeline."""
    make_optimizer_state(model, optimizer)
    with TimelineMeter() as meter:
        meter.follow(held_tensors(model, optimizer))
        loss = forward()
        meter.timeline.backward = len(meter.timeline.live_bytes)
        loss.backward()
        del loss
        meter.timeline.optimizer = len(meter.timeline.live_bytes)
        end_step(optimizer)
    return meter.timeline
