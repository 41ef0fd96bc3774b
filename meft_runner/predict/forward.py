"""Running a trained model over rows: without gradients, a batch at a time, and nothing kept but what answers need."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from meft_runner.errors import UserError
from meft_runner.predict.answering import OUTPUTS, Answering

Advance = Callable[[int], None]


@torch.no_grad()
def run_rows(
    model: nn.Module, answering: Answering, batch_size: int, autocast: torch.dtype | None, advance: Advance
) -> dict[str, list[np.ndarray]]:
    """Returns a model's outputs for all inputs.

    Args:
        model: in evaluation mode.
        answering: has the inputs, N.
        batch_size: inputs in one forward pass.
        autocast: its dtype, None for float32.
        advance: is told how many inputs each batch had.

    Returns:
        N arrays for each output that the model has, float32 where it is no count.
    """
    found: dict[str, list[np.ndarray]] = {}
    inputs, device = answering.inputs, next(model.parameters()).device
    for first in range(0, 0 if inputs is None else len(inputs), batch_size):
        assert inputs is not None
        rows = [inputs[place] for place in range(first, min(first + batch_size, len(inputs)))]
        batch = {name: tensor.to(device) for name, tensor in answering.collate(rows).items()}
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            outputs = model(**batch)
        for name in OUTPUTS:
            if name in outputs:
                found.setdefault(name, []).extend(_arrays(outputs[name]))
        advance(len(rows))
    return found


def _arrays(output: Tensor) -> np.ndarray:
    return (output.float() if output.is_floating_point() else output).cpu().numpy()


@contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """Shows on a terminal how much of something is done; yields what is to be told of more."""
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    live = sys.stdout.isatty() and total > 0
    with Progress(*columns, console=Console(), transient=True, disable=not live) as shown:
        task = shown.add_task(what, total=total)
        yield lambda count: shown.advance(task, count)


def out_of_memory(batch_size: int) -> UserError:
    """Returns what to say and to try where a batch does not fit into memory."""
    fix = f"Try batch_size={batch_size // 2}." if batch_size > 1 else "Shorten the rows, or take a larger machine."
    return UserError(f"out of memory: batch_size={batch_size} does not fit. {fix}")
