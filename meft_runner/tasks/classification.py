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
        texts = [[row[column] for row in rows] for column in self.text_columns]
        encoded = dict(tokenizer(*texts, truncation=True, max_length=self.max_length))
        for ids, mask in zip(encoded["input_ids"], encoded["attention_mask"], strict=True):
            if not ids:  # a tokenizer that marks nothing makes nothing of an empty text: it is the end of one
                ids.append(tokenizer.pad_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id)
                mask.append(1)
        encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
        if "label" in rows[0]:
            encoded["labels"] = [row["label"] if self.classes else float(row["label"]) for row in rows]
        return Dataset.from_dict(encoded)

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
        return TaskData(
            head=Head.classification,
            classes=self.classes,
            train=self.tokenised(tokenizer, train),
            evaluation={
                split: EvalSplit(by_length(self.tokenised(tokenizer, rows)), score)
                for split, rows in evaluation.items()
            },
            metric=self.metrics[0],
            collate=padding_collator(tokenizer, self.max_length),
            description=description,
            **more,
        )


def _score(task: Classification, prediction: EvalPrediction) -> dict[str, float]:
    answers, labels = task.answers(prediction.predictions), np.asarray(prediction.label_ids)
    return compute_metrics(task.metrics, len(task.classes), answers, labels)
