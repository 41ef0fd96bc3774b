"""Answers to `fit`: the largest batch and the largest length that a budget holds."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pandas as pd

from meft_runner.backbones import positions
from meft_runner.errors import UserError
from meft_runner.memory_report.case import Case
from meft_runner.memory_report.forms import method_labels
from meft_runner.memory_report.prediction import predict

_GIB = 2**30
_LARGEST_TOKENS = 2**14  # of a prediction on the way to an answer; beyond, memory is taken to grow evenly
_WORDS = {"predicted": "{}", "extrapolated": "about {}", "limit": "{} (all that the model reads)"}


class Size(NamedTuple):
    """The largest size that fits.

    Attributes:
        number: rows or tokens; 0 where none fits.
        source: predicted, extrapolated from smaller ones, or the limit of what there is.
    """

    number: int
    source: str


def answers(found: list[Case], budget: int) -> list[dict[str, Any]]:
    """Returns for each case the largest batch at its length, and the largest length at its batch, within a budget.

    Args:
        found: the cases.
        budget: bytes.

    Raises:
        UserError: not even one row of any case fits.
    """
    needed = [predict(replace(case, batch_size=1))["peak_bytes"] for case in found]
    if min(needed) > budget:
        case, least = found[needed.index(min(needed))], min(needed)
        raise UserError(
            f"fit: {case.backbone.name} with {case.method_label} needs {least / _GIB:.2f} GiB for a batch of 1, "
            f"{(least - budget) / _GIB:.2f} GiB more. Take a shorter length or another method."
        )
    return [_answer(case, budget) for case in found]


def shown(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Returns answers as a table for readers."""
    table = pd.DataFrame(rows)
    table["method"] = method_labels(table)
    for name in ("batch", "length"):
        sources = table.pop(f"largest_{name}_source")
        table[f"largest_{name}"] = [
            None if pd.isna(count) else _WORDS[source].format(int(count))
            for count, source in zip(table[f"largest_{name}"], sources, strict=True)
        ]
    return table.drop(columns=["reversal", "checkpointing"]).rename(columns=lambda name: name.replace("_", " "))


def _answer(case: Case, budget: int) -> dict[str, Any]:
    def with_batch(batch: int) -> int:
        return predict(replace(case, batch_size=batch))["peak_bytes"]

    def with_length(length: int) -> int:
        return predict(replace(case, length=length))["peak_bytes"]

    length, tokens = None, positions(case.config())
    batch = largest(with_batch, budget, known=_LARGEST_TOKENS // (case.length or tokens))
    if case.length is not None:
        length = largest(with_length, budget, limit=tokens)
    return {
        "backbone": case.backbone.name,
        "method": case.method.name,
        "reversal": case.reversal,
        "checkpointing": case.checkpointing,
        "precision": case.precision.name,
        "attention": case.attention.name,
        "weights": case.backbone.weights.name,
        "head": case.task_head.name,
        "length": case.length or tokens,
        "largest_batch": batch.number,
        "largest_batch_source": batch.source,
        "batch_size": case.batch_size,
        "largest_length": length and length.number,
        "largest_length_source": length and length.source,
    }


def largest(peak: Callable[[int], int], budget: int, known: int | None = None, limit: int | None = None) -> Size:
    """Returns the largest size whose peak is within a budget.

    Memory grows with the size, evenly or faster. Where it grows evenly, a line through two predictions leads to the
    answer; where it grows faster, halving does, so the two take turns.

    Args:
        peak: predicts the bytes that a size needs.
        budget: bytes.
        known: the largest size that is predicted, where memory grows evenly; beyond, the line is followed.
        limit: the largest size there is; one of the two is given.
    """
    top = max(known or limit or 0, 2)
    points = {size: peak(size) for size in (1, 2)}
    if points[1] > budget:
        return Size(0, "predicted")
    low, high, halving = 1, top + 1, False
    while high - low > 1:
        guess = (low + high) // 2 if halving else _crossing(points, low, budget)
        guess = min(max(guess, low + 1), high - 1)
        points[guess] = peak(guess)
        low, high = (guess, high) if points[guess] <= budget else (low, guess)
        halving = not halving
    if low < top:
        return Size(low, "predicted")
    return Size(low, "limit") if limit else Size(_crossing(points, low, budget), "extrapolated")


def _crossing(points: dict[int, int], low: int, budget: int) -> int:
    """Returns where the line through two points reaches the budget: the largest that fits, and its neighbour above.

    Where there is none above, the one below takes its place.
    """
    above, below = [size for size in points if size > low], [size for size in points if size < low]
    other = min(above) if above else max(below)
    slope = max(1, (points[other] - points[low]) / (other - low))
    return int(low + (budget - points[low]) / slope)
