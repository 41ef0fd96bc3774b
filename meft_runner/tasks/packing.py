"""Several rows of tokens in one, each with positions from 0: attention masks made of those keep them apart.

transformers makes such masks for causal models where positions begin anew inside a row, no mask of padding is given and
keys and values are not kept (`masking_utils.find_packed_sequence_indices`). So padding, too, is a row with positions of
its own, without labels.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DataCollatorForTokenClassification, PreTrainedTokenizerBase

from meft_runner.backbones.answers import IGNORED
from meft_runner.tasks.data import Batch, Row


def pack(rows: Sequence[Row], max_length: int) -> list[Row]:
    """Packs rows, the longest first, each into the fullest row that has room for it ("best fit decreasing").

    Args:
        rows: with `input_ids`, `labels`, the first of which is ignored, and `length`, at most `max_length`.
        max_length: of a packed row, in tokens.

    Returns:
        Rows with `position_ids` too.
    """
    bins: list[list[Row]] = []
    room: list[tuple[int, int]] = []  # tokens that are free, and the bin; sorted
    for row in sorted(rows, key=lambda each: -each["length"]):
        place = bisect_left(room, (row["length"], -1))
        free, number = room.pop(place) if place < len(room) else (max_length, len(bins))
        if number == len(bins):
            bins.append([])
        bins[number].append(row)
        insort(room, (free - row["length"], number))
    return [_joined(parts) for parts in bins]


def collate_tokens(
    tokenizer: PreTrainedTokenizerBase, max_length: int, rows: list[Row], to_maximum: bool = False
) -> Batch:
    """Makes a batch of rows of tokens, packed or not."""
    if "position_ids" in rows[0]:
        return collate_packed(rows, int(tokenizer.pad_token_id), max_length if to_maximum else None)
    padding: dict[str, Any] = {"padding": "max_length", "max_length": max_length} if to_maximum else {}
    return dict(DataCollatorForTokenClassification(tokenizer, label_pad_token_id=IGNORED, **padding)(rows))


def collate_packed(rows: Sequence[Row], padding: int, length: int | None = None) -> Batch:
    """Makes a batch of packed rows.

    Args:
        rows: what `pack` has returned.
        padding: the token that fills rows up.
        length: S; None for that of the longest row.

    Returns:
        `input_ids`, `labels` and `position_ids`, (B, S) each, and no attention mask.
    """
    length = length or max(len(row["input_ids"]) for row in rows)
    batch: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "position_ids": []}
    for row in rows:
        missing = length - len(row["input_ids"])
        batch["input_ids"].append([*row["input_ids"], *[padding] * missing])
        batch["labels"].append([*row["labels"], *[IGNORED] * missing])
        batch["position_ids"].append([*row["position_ids"], *range(missing)])
    return {name: torch.tensor(values) for name, values in batch.items()}


def _joined(rows: Sequence[Row]) -> Row:
    return {
        "input_ids": [token for row in rows for token in row["input_ids"]],
        "labels": [label for row in rows for label in row["labels"]],
        "position_ids": [position for row in rows for position in range(row["length"])],
        "length": sum(row["length"] for row in rows),
    }
