"""How much memory steps need: predicted and measured, the largest batch, and the longest row."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from steps.models import Shape, build, build_repeated, case_of, device, release, run_step, step_of

from gpu.shapes import Row, on_gpu
from meft_runner.backbones import positions
from meft_runner.config import Kernel
from meft_runner.memory import TrackedMeter, TrainingStep, measure_step, meter_for
from meft_runner.memory_report import prediction
from meft_runner.memory_report.case import Case

CAPACITY_GIB = 16  # memory for the largest batch: devices compare, and large ones come to an end
LARGEST_BATCH = 1024
UNIT = 64  # tokens, of which the longest row is a multiple
STRETCH, TRIES = 1.05, 6  # how near to the longest row to come, and after how many tries to stop


def memory(shape: Shape, precision: str, attention: str, method: str, overrides: tuple[str, ...] = ()) -> list[Row]:
    """Predicts what a training step needs, and measures it: by the device's allocator, and by following tensors."""
    case = replace(case_of(shape, precision, *overrides), attention=Kernel[attention])
    predicted = prediction.predict(case)
    model = build(case) if case.attention is Kernel.flash else _unfused(case)
    step = step_of(case, model)
    measured, tracked = (measure_step(*step, meter).as_dict() for meter in (meter_for(device()), TrackedMeter()))
    row: Row = {}
    for figure in ("peak", "activations"):
        expected, found = predicted[f"{figure}_bytes"], measured[f"{figure}_bytes"]
        row[f"predicted {figure} (MiB)"] = round(expected / 2**20, 1)
        row[f"measured {figure} (MiB)"] = round(found / 2**20, 1)
        row[f"measured / predicted {figure}"] = round(found / expected, 4)
        row[f"tracked / measured {figure}"] = round(tracked[f"{figure}_bytes"] / found, 4)
    return [row]


def _unfused(case: Case) -> torch.nn.Module:
    with device():
        return prediction.build(case).train()


def capacity(shape: Shape, method: str, overrides: tuple[str, ...]) -> list[Row]:
    """Finds the largest batch of a method on a device that seems to have no more memory than the limit."""
    if not on_gpu():
        return [{"note": "left out, needs a GPU"}]
    case = case_of(shape, "bf16", *overrides)
    step = step_of(case, build(case))
    fitted, failed = largest_batch(lambda rows: fits(step, replace(case, batch_size=rows), CAPACITY_GIB * 2**30))
    return [{"largest batch": fitted, "did not fit": failed}]


def largest_batch(fits: Callable[[int], bool]) -> tuple[int, int | None]:
    """Returns a batch size that fits, and one at most a sixteenth larger that does not; None beyond LARGEST_BATCH."""
    fitted, failed = 0, 1
    while fits(failed):
        fitted, failed = failed, 2 * failed
        if failed > LARGEST_BATCH:
            return fitted, None
    while failed - fitted > max(1, fitted // 16):
        middle = (fitted + failed) // 2
        fitted, failed = (middle, failed) if fits(middle) else (fitted, middle)
    return fitted, failed


def longest(shape: Shape, method: str, overrides: tuple[str, ...], cards: tuple[float, ...]) -> Iterator[Row]:
    """Finds about the longest row of a method on cards of several sizes, by a line through two short ones.

    Args:
        shape: the model; its length is the shorter one's, the other is four times as long.
        method: what the table calls it.
        overrides: what is typed for it.
        cards: GiB; a card has more, for CUDA itself.

    Yields:
        A row a card, as soon as it is known.
    """
    assert shape.length is not None
    case = case_of(shape, "bf16", *overrides)
    step = step_of(case, build_repeated(case))
    run_step(step)  # what is made once is there from now on
    longer = replace(case, length=4 * shape.length)
    most, needed = positions(case.config()), peak_bytes(step, longer)
    slope = (needed - peak_bytes(step, case)) / (3 * shape.length)
    for card in cards:
        budget = int(card * 2**30)
        guess = int(4 * shape.length + (budget - needed) / slope)
        fitted, failed = longest_row(
            lambda length, budget=budget: fits(step, replace(case, length=length), budget), min(most, guess), most
        )
        yield {"card (GiB)": card, "longest row": fitted, "did not fit": failed, "by the line": guess}


def longest_row(fits: Callable[[int], bool], guess: int, most: int) -> tuple[int, int | None]:
    """Returns a length that fits and one that does not, from a good guess on; 0 and None where there was none."""
    fitted, failed, length, stretch = 0, None, float(guess), STRETCH
    for _ in range(TRIES):
        tokens = min(most, max(UNIT, int(length) // UNIT * UNIT))
        if fits(tokens):
            fitted, length = tokens, max(tokens + UNIT, tokens * stretch)
        else:
            failed, length = tokens, tokens / stretch
        if fitted == most or failed == UNIT or (fitted and failed and failed <= max(fitted + UNIT, STRETCH * fitted)):
            break
        if fitted and failed:
            length = (fitted + failed) / 2
        stretch **= 2  # the guess is worse than was thought
    return fitted, failed


def fits(step: TrainingStep, case: Case, budget: int) -> bool:
    """Tells whether a step on a case's batch fits into a budget, with the model and optimizer of `step`.

    A GPU seems to have no more than the budget meanwhile; elsewhere tensors are followed.
    """
    if not on_gpu():
        return peak_bytes(step, case) <= budget
    fitted = True
    share = budget / torch.cuda.get_device_properties(device()).total_memory
    release()
    torch.cuda.set_per_process_memory_fraction(min(1.0, share))
    try:
        run_step(on_batch(step, case))
    except torch.OutOfMemoryError:
        fitted = False
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    step.optimizer.zero_grad(set_to_none=True)
    release()  # not in the handler: the error refers to the step's tensors
    return fitted


def peak_bytes(step: TrainingStep, case: Case) -> int:
    """Returns the most bytes that are alive in a step on a case's batch, with the model and optimizer of `step`."""
    return measure_step(*on_batch(step, case), meter_for(device()), rehearse=False).peak_bytes


def on_batch(step: TrainingStep, case: Case) -> TrainingStep:
    """Returns a step of the same model and optimizer on a case's batch."""
    return step._replace(forward=step_of(case, step.model).forward)
