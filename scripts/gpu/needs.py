"""How much memory steps need: predicted and measured, the largest batch, and the longest row."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from gpu.shapes import Row, on_gpu
from steps.models import Shape, build, build_repeated, case_of, device, release, run_step, step_of

from meft_runner.config import Kernel
from meft_runner.memory import TrackedMeter, TrainingStep, measure_step, meter_for
from meft_runner.memory_report import prediction
from meft_runner.memory_report.case import Case

CAPACITY_GIB = 16  # memory for the largest batch: devices compare, and large ones come to an end
LARGEST_BATCH = 1024
UNIT = 64  # tokens, of which the longest row is a multiple
STRETCH, TRIES = 1.05, 4  # how far a row grows from one try to the next, and how many there are of one card


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


def capacity(shape: Shape, overrides: tuple[str, ...]) -> list[Row]:
    """Finds the largest batch of a method on a device that seems to have no more memory than the limit."""
    if not on_gpu():
        return [{"note": "left out, needs a GPU"}]
    case = case_of(shape, "bf16", *overrides)
    with limited(CAPACITY_GIB * 2**30):
        step = step_of(case, build(case))
        fitted, failed = largest_batch(lambda rows: fits(step, replace(case, batch_size=rows)))
    return [{"largest batch": fitted, "did not fit": failed}]


def longest(shape: Shape, overrides: tuple[str, ...], cards: tuple[int, ...]) -> Iterator[Row]:
    """Finds about the longest row of a method on cards of several sizes, by a line through two short ones.

    Args:
        shape: the model; its length is not read.
        overrides: the method.
        cards: MiB; less than a card has, which also holds what CUDA itself needs.

    Yields:
        A row a card, as soon as it is known.
    """
    case = case_of(shape, "bf16", *overrides)
    step = step_of(case, build_repeated(case))
    short, more = UNIT, 4 * UNIT
    needed = {length: peak_bytes(step, replace(case, length=length)) for length in (short, more, 16 * UNIT, 64 * UNIT)}
    # The first rows are shorter than what is computed at once, so that the line is that of the longer ones.
    slope = (needed[64 * UNIT] - needed[16 * UNIT]) / (48 * UNIT)
    for card in cards:
        guess = 64 * UNIT + (card * 2**20 - needed[64 * UNIT]) / slope
        with limited(card * 2**20):
            fitted, failed = longest_row(lambda length: fits(step, replace(case, length=length)), int(guess))
        yield {"card (MiB)": card, "longest row": fitted, "did not fit": failed, "expected": int(guess)}


def longest_row(fits: Callable[[int], bool], guess: int) -> tuple[int, int | None]:
    """Returns a length that fits, and one that does not, from a good guess on; 0 or None where it was not found."""
    fitted, failed = 0, None
    length = guess
    for _ in range(TRIES):
        length = max(UNIT, int(length) // UNIT * UNIT)
        if fits(length):
            fitted, length = length, length * STRETCH
        else:
            failed, length = length, length / STRETCH
        if fitted and failed:
            break
    return fitted, failed
