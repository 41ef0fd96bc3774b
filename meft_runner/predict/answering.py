"""What a task makes of rows that are to be answered, and how the model's outputs become answers and scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from meft_runner.tasks.data import Batch, Row, by_length

OUTPUTS = ("logits", "start_logits", "end_logits", "log_likelihoods", "tokens", "correct")  # of models, that are kept


@dataclass(frozen=True)
class Found:
    """What the model has made of rows.

    Attributes:
        outputs: its outputs by name, an array for each of the inputs, in their order.
        generated: a text for each prompt.
    """

    outputs: dict[str, list[np.ndarray]]
    generated: Sequence[str] = ()


@dataclass(frozen=True)
class Answering:
    """Rows that are to be answered.

    Attributes:
        inputs: model inputs, in the order in which they are run; None where nothing but texts is asked for.
        collate: makes a batch of them.
        answers: returns an answer for each row, in the rows' own order.
        scores: returns the metrics of the rows whose labels are known, as fractions.
        scored: how many those are.
        prompts: tokens that are to be continued.
        ends: tokens that end a continuation, besides the model's own.
        notes: what is to be said of the rows, such as how many are cut.
    """

    inputs: Dataset | None
    collate: Callable[..., Batch]
    answers: Callable[[Found], list[Row]]
    scores: Callable[[Found], dict[str, float]]
    scored: int
    prompts: Sequence[list[int]] = ()
    ends: Sequence[int] = ()
    notes: Sequence[str] = ()


def longest_first(inputs: Dataset, drop: Sequence[str] = ()) -> tuple[Dataset, np.ndarray]:
    """Returns model inputs in the order in which development rows are scored in a run, without some columns.

    Args:
        inputs: with `length`.
        drop: further columns that the model is not to have.

    Returns:
        The inputs, longest first, and the number that each had before, (N,).
    """
    ordered = by_length(inputs.add_column("row", range(len(inputs))))
    return ordered.remove_columns(["row", "length", *drop]), np.array(ordered["row"])


def in_their_order(order: np.ndarray, values: Sequence[Any]) -> list[Any]:
    """Returns values of inputs, N, in the order that the inputs had before they were sorted; undoes `longest_first`."""
    restored: list[Any] = [None] * len(values)
    for place, value in zip(order, values, strict=True):
        restored[place] = value
    return restored
