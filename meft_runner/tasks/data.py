"""What a task hands to training: rows as model inputs, and how answers become scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset
from torch import nn
from transformers import DataCollatorWithPadding, EvalPrediction, PreTrainedTokenizerBase

from meft_runner.config import Head, SplitSettings

Row = dict[str, Any]
Batch = dict[str, Any]
Score = Callable[[EvalPrediction], dict[str, float]]


@dataclass(frozen=True)
class EvalSplit:
    """A development split.

    Attributes:
        rows: model inputs with labels, in the order in which they are predicted.
        score: turns the predictions for these rows into metrics, as fractions.
        by_model: further metrics, for which the model itself is asked.
    """

    rows: Dataset
    score: Score
    by_model: Callable[[nn.Module], dict[str, float]] | None = None


@dataclass(frozen=True)
class AnswerFile:
    """A file of answers, written when training is done.

    Attributes:
        name: of the file.
        rows: model inputs.
        text: turns the predictions for these rows, (N, ...) arrays, into the file's content.
    """

    name: str
    rows: Dataset
    text: Callable[[Any], str]


@dataclass(frozen=True)
class TaskData:
    """A task that is ready for training.

    Attributes:
        head: what the model is to do.
        classes: class names in label order; empty for regression and where nothing is classified.
        train: rows as model inputs with labels; with `length` where rows differ in it.
        evaluation: the development splits; the first gives the score.
        metric: name of the score that chooses the best epoch.
        collate: makes a batch of rows, padded to the longest, or to the task's maximum with to_maximum=True.
        description: where the rows came from, how many, and their fingerprint, for the record.
        label_names: the inputs that are labels.
        answer_files: what is predicted and written when training is done.
    """

    head: Head
    classes: Sequence[str]
    train: Dataset
    evaluation: dict[str, EvalSplit]
    metric: str
    collate: Callable[..., Batch]
    description: dict[str, Any]
    label_names: Sequence[str] = ("labels",)
    answer_files: Sequence[AnswerFile] = field(default=())


def row_limits(task: SplitSettings) -> dict[str, int | None]:
    """Returns the splits that a task reads, and how many rows of each."""
    return {task.train_split: task.max_train_rows} | dict.fromkeys(task.eval_splits, task.max_eval_rows)


def padding_collator(tokenizer: PreTrainedTokenizerBase, max_length: int) -> Callable[..., Batch]:
    """Returns the `collate` of a task whose rows are token ids with labels of one number each."""

    def collate(rows: list[Row], to_maximum: bool = False) -> Batch:
        padding = {"padding": "max_length", "max_length": max_length} if to_maximum else {"padding": "longest"}
        return dict(DataCollatorWithPadding(tokenizer, **padding)(rows))

    return collate


def by_length(rows: Dataset) -> Dataset:
    """Returns rows with a `length` column sorted by it, longest first, so that batches need little padding."""
    return rows.select(np.argsort(-np.array(rows["length"]), kind="stable"))


def metric_suffix(splits: Sequence[str], split: str) -> str:
    """Returns what a development split adds to its metrics' names: nothing for the first, "_test" for a second."""
    first, *others = splits
    if split == first:
        return ""
    short = split.removeprefix("validation_")
    return f"_{split if short in others else short}"  # another split may have the short name as its own
