"""Classifying or grading one or two texts: what GLUE, the demo and the user's own files have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import EvalPrediction, PreTrainedTokenizerBase

from meft_runner.config import Head
from meft_runner.tasks.data import EvalSplit, Row, TaskData, by_length, padding_collator
from meft_runner.tasks.description import with_cut
from meft_runner.tasks.metrics import compute_metrics


@dataclass(frozen=True)
class Classification:
    """How texts are classified or graded.

    Attributes:
        text_columns: one or two columns of text.
        classes: class names in label order; empty for regression.
        metrics: what is computed; the first is the score.
        max_length: longest input in tokens.
    """

    text_columns: Sequence[str]
    classes: Sequence[str]
    metrics: Sequence[str]
    max_length: int

    def tokenised(self, tokenizer: PreTrainedTokenizerBase, rows: list[Row]) -> Dataset:
        """Returns rows as model inputs with `length`, and with `labels` where the rows have a `label`."""
        encoded = dict(tokenizer(*self._texts(rows), truncation=True, max_length=self.max_length))
        for ids, mask in zip(encoded["input_ids"], encoded["attention_mask"], strict=True):
            if not ids:  # a tokenizer that marks nothing makes nothing of an empty text: it is the end of one
                ids.append(tokenizer.pad_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id)
                mask.append(1)
        encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
        if "label" in rows[0]:
            encoded["labels"] = [row["label"] if self.classes else float(row["label"]) for row in rows]
        return Dataset.from_dict(encoded)

    def count_cut(self, tokenizer: PreTrainedTokenizerBase, rows: list[Row], inputs: Dataset) -> int:
        """Returns how many rows `tokenised` has cut to these inputs, texts of a pair together."""
        full = [row for row, length in zip(rows, inputs["length"], strict=True) if length >= self.max_length]
        whole = tokenizer(*self._texts(full), verbose=False)["input_ids"] if full else []
        return sum(len(ids) > self.max_length for ids in whole)

    def _texts(self, rows: list[Row]) -> list[list[str]]:
        return [[row[column] for row in rows] for column in self.text_columns]

    def answers(self, logits: Any) -> np.ndarray:
        """Returns (N,) class numbers or grades of (N, classes or 1) logits."""
        logits = np.asarray(logits)
        return logits.argmax(axis=-1) if self.classes else logits.reshape(-1)

    def task_data(
        self,
        tokenizer: PreTrainedTokenizerBase,
        train: list[Row],
        evaluation: dict[str, list[Row]],
        description: dict[str, Any],
        **more: Any,
    ) -> TaskData:
        """Returns the task with its rows, each with a `label`, made ready for training.

        Args:
            tokenizer: the backbone's.
            train: training rows.
            evaluation: rows of each development split.
            description: of the rows, for the record.
            **more: further fields of `TaskData`.
        """
        score = partial(_score, self)
        splits = dict(zip(description["splits"], (train, *evaluation.values()), strict=True))  # those of training first
        inputs = {split: self.tokenised(tokenizer, rows) for split, rows in splits.items()}
        cut = {split: self.count_cut(tokenizer, rows, inputs[split]) for split, rows in splits.items()}
        return TaskData(
            head=Head.classification,
            classes=self.classes,
            train=next(iter(inputs.values())),
            evaluation={split: EvalSplit(by_length(inputs[split]), score) for split in evaluation},
            metric=self.metrics[0],
            collate=padding_collator(tokenizer, self.max_length),
            description=with_cut(description, cut, self.max_length),
            **more,
        )


def _score(task: Classification, prediction: EvalPrediction) -> dict[str, float]:
    answers, labels = task.answers(prediction.predictions), np.asarray(prediction.label_ids)
    return compute_metrics(task.metrics, len(task.classes), answers, labels)
