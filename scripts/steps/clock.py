"""Time and memory of training steps."""

import statistics
import time
from collections.abc import Mapping

import torch

from meft_runner.memory import TrainingStep
from steps.models import run_step


def synchronized_time() -> float:
    """Returns the time in seconds at which the device has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_of(step: TrainingStep) -> float:
    """Runs a step and returns its seconds."""
    started = synchronized_time()
    run_step(step)
    return synchronized_time() - started


def median_seconds(steps: Mapping[str, TrainingStep], rounds: int, deadline: float) -> tuple[dict[str, float], int]:
    """Times steps in turn, round by round, so that a machine that slows down slows all of them.

    Args:
        steps: by name.
        rounds: how many there are at the most.
        deadline: of time.monotonic(), after which none but the first is begun.

    Returns:
        The median of each step over the rounds, and how many these were.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    done = 0
    while done < rounds and (done == 0 or time.monotonic() < deadline):
        for name, step in steps.items():
            seconds[name].append(seconds_of(step))
        done += 1
    return {name: statistics.median(values) for name, values in seconds.items()}, done
