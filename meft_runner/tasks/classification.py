"""Classifying or grading one or two texts: GLUE and the demo."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import EvalPrediction, PreTrainedTokenizerBase

from meft_runner.settings import TaskSettings
from meft_runner.tasks.metrics import check_metrics, compute_metrics
from meft_runner.tasks.rows import Row, load_rows


@dataclass(frozen=True)
class TaskData:
    """A task that is ready for training.

    Attributes:
        train: tokenised rows with `labels` and `length`.
        evaluation: for each development split, its tokenised rows.
        compute_metrics: scores the Trainer's predictions.
        score: name of the metric that chooses the best epoch.
        description: where the rows came from, how many, and their fingerprint, for the record.
    """

    train: Dataset
    evaluation: dict[str, Dataset]
    compute_metrics: Callable[[EvalPrediction], dict[str, float]]
    score: str
    description: dict[str, Any]


def load_task(task: TaskSettings, tokenizer: PreTrainedTokenizerBase) -> TaskData:
    """Reads, checks and tokenises a task's rows.

    Raises:
        UserError: a metric is not known, or rows are missing, unreachable or not as the task needs them.
    """
    check_metrics(task.metrics)
    limits = {task.train_split: task.max_train_rows} | dict.fromkeys(task.eval_splits, task.max_eval_rows)
    rows = {split: load_rows(task, split, limit) for split, limit in limits.items()}
    tokenised = {split: _tokenised(task, tokenizer, part) for split, part in rows.items()}
    source = task.data_dir or task.hub or "generated"
    splits = {split: {"rows": len(part), "fingerprint": fingerprint(part)} for split, part in rows.items()}
    return TaskData(
        train=tokenised.pop(task.train_split),
        evaluation=tokenised,
        compute_metrics=partial(_score, task),
        score=task.metrics[0],
        description={"source": source, "synthetic": task.synthetic, "splits": splits},
    )


def metric_suffix(split: str) -> str:
    """Returns what a split adds to its metrics' names: "_mismatched" for MNLI's second one, else nothing."""
    suffix = split.removeprefix("validation")
    return "" if suffix == "_matched" else suffix


def fingerprint(rows: list[Row]) -> str:
    """Returns a digest of the rows' content and order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()[:16]


def _tokenised(task: TaskSettings, tokenizer: PreTrainedTokenizerBase, rows: list[Row]) -> Dataset:
    texts = [[row[column] for row in rows] for column in task.text_columns]
    encoded = dict(tokenizer(*texts, truncation=True, max_length=task.max_length))
    encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
    encoded["labels"] = [row["label"] if task.classes else float(row["label"]) for row in rows]
    return Dataset.from_dict(encoded)


def _score(task: TaskSettings, prediction: EvalPrediction) -> dict[str, float]:
    logits = np.asarray(prediction.predictions)
    answers = logits.argmax(axis=-1) if task.classes else logits.reshape(-1)
    return compute_metrics(task.metrics, answers, np.asarray(prediction.label_ids))
