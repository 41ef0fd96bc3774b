"""What a run's processes have spent and found: a run that goes on from a checkpoint counts on from there."""

from dataclasses import asdict
from typing import Any

from pydantic import BaseModel
from torch import nn

from meft_runner.methods.layers import reversible_stacks
from meft_runner.run.callbacks import StepTimes


class Checks(BaseModel):
    """What the monitor of one reversible stack has counted, as of `ReversalMonitor`."""

    checked_steps: int = 0
    mismatches: int = 0
    max_error: float = 0.0


class SoFar(BaseModel):
    """What a checkpoint keeps of it; one of an earlier version keeps nothing.

    Attributes:
        seconds: of all steps.
        checks: of each reversible stack, in the model's order.
    """

    seconds: float = 0.0
    checks: list[Checks] = []


def so_far(model: nn.Module, times: StepTimes) -> dict[str, Any]:
    """Returns what there is to keep, in plain form."""
    found = [asdict(stack.monitor) for stack in reversible_stacks(model)]
    return SoFar(seconds=times.total, checks=[Checks.model_validate(each) for each in found]).model_dump()


def go_on(kept: Any, model: nn.Module, times: StepTimes) -> None:
    """Adds what a checkpoint has kept to what this process counts.

    Args:
        kept: from `so_far`, or nothing.
        model: whose stacks count.
        times: of the steps of this process.
    """
    before = SoFar.model_validate(kept or {})
    times.before += before.seconds
    for stack, checks in zip(reversible_stacks(model), before.checks, strict=False):
        monitor = stack.monitor
        monitor.checked_steps += checks.checked_steps
        monitor.mismatches += checks.mismatches
        monitor.max_error = max(monitor.max_error, checks.max_error)
