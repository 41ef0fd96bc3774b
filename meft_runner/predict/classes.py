"""Rows that get a class or a grade: one or two texts, or an image."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.special import softmax
from transformers import PreTrainedTokenizerBase

from meft_runner.config import DemoSettings, GlueSettings, TextSettings
from meft_runner.predict.answering import Answering, Found, in_their_order, longest_first
from meft_runner.predict.labels import known_label
from meft_runner.tasks import demo, glue
from meft_runner.tasks.classification import Classification
from meft_runner.tasks.data import Batch, Row, padding_collator
from meft_runner.tasks.description import cut_note
from meft_runner.tasks.language_rows import Placed
from meft_runner.tasks.metrics import compute_metrics
from meft_runner.tasks.rows import check_texts
from meft_runner.tasks.text import metric_of

Label = int | float | None


def ask_texts(
    task: GlueSettings | DemoSettings | TextSettings,
    tokenizer: PreTrainedTokenizerBase,
    classes: Sequence[str],
    rows: Sequence[Placed],
) -> Answering:
    """Returns texts as model inputs.

    Raises:
        UserError: a row lacks a text, or its label is none of the run's.
    """
    form = _form(task, classes)
    for each in rows:
        check_texts(each.row, form.text_columns, each.where)
    column = task.label_column if isinstance(task, TextSettings) else "label"
    numbered = not isinstance(task, TextSettings)
    labels = [known_label(each.row.get(column), form.classes, each.where, numbered) for each in rows]
    texts: list[Row] = [{name: each.row[name] for name in form.text_columns} for each in rows]
    tokenised = form.tokenised(tokenizer, texts)
    cut = form.count_cut(tokenizer, texts, tokenised)
    notes = [cut_note(rows[0].source, cut, len(rows), form.max_length)] if cut else []
    inputs, order = longest_first(tokenised)
    collate = padding_collator(tokenizer, form.max_length)
    return replace(of_logits(inputs, collate, order, form.classes, form.metrics, labels), notes=notes)


def of_logits(
    inputs: Dataset,
    collate: Callable[..., Batch],
    order: np.ndarray,
    classes: Sequence[str],
    metrics: Sequence[str],
    labels: Sequence[Label],
) -> Answering:
    """Returns rows whose answers are a model's logits, (classes,), or a grade, (1,).

    Args:
        inputs: N model inputs.
        collate: makes a batch of them.
        order: the row that each of them is, (N,).
        classes: class names in label order; empty for grades.
        metrics: of the scores.
        labels: of the N rows, None where one is not known.
    """
    known = [place for place, row in enumerate(order) if labels[row] is not None]  # in the order of the inputs
    expected = np.asarray([labels[order[place]] for place in known], dtype=np.int64 if classes else np.float32)

    def scores(found: Found) -> dict[str, float]:
        logits = np.stack([found.outputs["logits"][place] for place in known])
        predicted = logits.argmax(axis=-1) if classes else logits.reshape(-1)
        return compute_metrics(metrics, len(classes), predicted, expected)

    def answers(found: Found) -> list[Row]:
        return [_answer(logits, classes) for logits in in_their_order(order, found.outputs["logits"])]

    return Answering(inputs, collate, answers, scores, len(known))


def _answer(logits: np.ndarray, classes: Sequence[str]) -> Row:
    if not classes:
        return {"grade": float(logits[0])}
    shares: Any = softmax(logits.astype(np.float64))
    return {"label": classes[int(logits.argmax())], "probabilities": dict(zip(classes, shares.tolist(), strict=True))}


def _form(task: GlueSettings | DemoSettings | TextSettings, classes: Sequence[str]) -> Classification:
    if isinstance(task, GlueSettings):
        return glue.form_of(task)
    if isinstance(task, DemoSettings):
        return demo.form_of(task)
    return Classification(task.text_columns, classes, [metric_of(task, classes)], task.max_length)
