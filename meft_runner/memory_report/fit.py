"""Answers to `fit`: the largest batch and the largest length that a budget holds."""

from dataclasses import replace
from typing import Any

import pandas as pd

from meft_runner.backbones import positions
from meft_runner.errors import UserError
from meft_runner.memory.search import largest
from meft_runner.memory_report.case import Case
from meft_runner.memory_report.forms import method_labels
from meft_runner.memory_report.prediction import predict

_GIB = 2**30
_LARGEST_TOKENS = 2**14  # of a prediction on the way to an answer; beyond, memory is taken to grow evenly
_WORDS = {"predicted": "{}", "extrapolated": "about {}", "limit": "{} (all that the model reads)"}


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
    return table.drop(columns=["reversal", "checkpointing", "offload"]).rename(
        columns=lambda name: name.replace("_", " ")
    )


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
        "offload": case.offload,
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
