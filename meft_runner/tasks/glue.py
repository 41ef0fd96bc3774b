"""The GLUE tasks, and the files that its leaderboard takes."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from meft_runner.config import GlueSettings
from meft_runner.errors import UserError
from meft_runner.tasks.classification import Classification
from meft_runner.tasks.data import AnswerFile, Row, TaskData
from meft_runner.tasks.description import cut_note, describe_labelled
from meft_runner.tasks.metrics import check_metrics
from meft_runner.tasks.rows import check_columns, check_texts, load_rows, load_splits, origin

_LARGEST_GRADE = 1e6  # beyond any scale that sentences are graded on
_GRADES = (0.0, 5.0)  # the scale of STS-B, which has no other grades on the leaderboard


def load(task: GlueSettings, tokenizer: PreTrainedTokenizerBase) -> TaskData:
    """Reads, checks and tokenises the rows of a GLUE task.

    Raises:
        UserError: a metric is not known, or rows are missing, unreachable or not as the task needs them.
    """
    check_metrics(task.metrics, regression=not task.classes)
    splits = load_splits(task, partial(check_row, task))
    rows, classes = splits.rows, task.classes
    places = {split: origin(task, split) for split in rows}
    form = form_of(task)
    files, notes = _leaderboard_files(task, form, tokenizer) if task.predict_test else ([], [])
    description = describe_labelled(task, splits.source, classes, rows, places, revision=splits.revision, notes=notes)
    return form.task_data(tokenizer, rows.pop(task.train_split), rows, description, answer_files=files)


def form_of(task: GlueSettings) -> Classification:
    """Returns how the rows of a GLUE task are classified or graded."""
    return Classification(task.text_columns, task.classes, task.metrics, task.max_length)


def check_row(task: GlueSettings, row: Row, where: str) -> None:
    """Makes sure that a row has its texts, and as its label the number of a class or a grade.

    Raises:
        UserError: it has not.
    """
    check_texts(row, task.text_columns, where)
    check_columns(row, ["label"], where)
    _check_label(task.name, task.classes, row["label"], where)


def _check_label(task: str, classes: list[str], label: Any, where: str) -> None:
    if classes:
        fits = type(label) is int and 0 <= label < len(classes)
    else:
        fits = type(label) in (int, float) and abs(label) < _LARGEST_GRADE  # false for NaN
    if fits:
        return
    expected = ", ".join(f"{i} = {name}" for i, name in enumerate(classes)) or "a number"
    if label == -1:
        expected += "; -1 hides a test set's label: choose other splits by task.eval_splits=[...]"
    raise UserError(f"{where}: label {label!r} is outside the set of task={task}; expected {expected}.")


def _leaderboard_files(
    task: GlueSettings, form: Classification, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[AnswerFile], list[str]]:
    """Returns a file for each test set, and how many rows of each are cut, in words."""

    def text(predictions: Any) -> str:
        return _submission(task, form.answers(predictions))

    files, notes = [], []
    for name, split in task.test_files.items():
        rows = _test_rows(task, split)
        inputs = form.tokenised(tokenizer, rows)
        if cut := form.count_cut(tokenizer, rows, inputs):
            notes.append(cut_note(split, cut, len(rows), form.max_length))
        files.append(AnswerFile(f"{name}.tsv", inputs, text))
    return files, notes


def _test_rows(task: GlueSettings, split: str) -> list[Row]:
    """Returns all rows of a test set in their order, without labels: the hub has -1 there."""
    if split == "ax" and task.data_dir is None:  # on the hub, the diagnostics are a configuration of their own
        task, split = replace(task, hub_config="ax"), "test"
    rows, _ = load_rows(task, split, None, lambda row, where: check_texts(row, task.text_columns, where))
    return [{column: row[column] for column in task.text_columns} for row in rows]


def _submission(task: GlueSettings, answers: np.ndarray) -> str:
    """Returns a file of the leaderboard's: (N,) class numbers or grades as numbered lines."""
    lines = [f"{index}\t{_answer(task, answer)}\n" for index, answer in enumerate(answers)]
    return "".join(["index\tprediction\n", *lines])


def _answer(task: GlueSettings, answer: Any) -> str:
    if not task.classes:
        return f"{np.clip(answer, *_GRADES):.3f}"
    return str(answer) if task.numeric_labels else task.classes[answer]
