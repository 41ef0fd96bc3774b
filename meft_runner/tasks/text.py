"""The user's own files: rows of one or two texts with a class or a grade."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from meft_runner.config import TextSettings
from meft_runner.errors import UserError, listed, nearest
from meft_runner.tasks.classification import Classification
from meft_runner.tasks.data import Row, TaskData
from meft_runner.tasks.description import check_evaluation_labels, check_training_labels, describe, labels_text
from meft_runner.tasks.files import SEPARATORS, read_file
from meft_runner.tasks.labels import Given, Label, class_names, numbered
from meft_runner.tasks.metrics import check_metrics
from meft_runner.tasks.quotes import check_swallowed, goes_over_lines
from meft_runner.tasks.rows import check_filled

TEXTS = ("first", "second")  # the texts' names in our rows, where a column of the user's cannot clash with `label`
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _File:
    """One of the user's files.

    Attributes:
        setting: that names it.
        path: where it is.
        limit: how many of its rows are read; None for all.
    """

    setting: str
    path: Path
    limit: int | None

    def __str__(self) -> str:
        return f"{self.setting}={self.path}"

    @property
    def typed(self) -> bool:
        """Whether the file tells numbers from text."""
        return self.path.suffix.lower() not in SEPARATORS


def load(task: TextSettings, tokenizer: PreTrainedTokenizerBase) -> TaskData:
    """Reads, checks and tokenises the user's rows.

    Raises:
        UserError: a file is not given, missing, broken or empty, a column is missing, a row does not fit, or the
            labels do not make a task.
    """
    _check_columns(task)
    files = _files(task)
    texts: dict[str, list[Row]] = {}
    given: dict[str, list[Given]] = {}
    for split, file in files.items():
        texts[split], given[split] = _read(task, file)
    classes = class_names(given["train"], files["train"].typed)
    metric = metric_of(task, classes)
    rows: dict[str, list[Row]] = {}
    for (split, file), check in zip(files.items(), (check_training_labels, check_evaluation_labels), strict=True):
        labels = numbered(given[split], classes)
        rows[split] = [text | {"label": label} for text, label in zip(texts[split], labels, strict=True)]
        check(task, classes, rows[split], str(file))
    said = labels_text(classes, rows["train"])
    _log.info("task=text: %s (%d rows)", said, len(rows["train"]))
    source = f"{task.train_file}, {task.eval_file}"
    description = describe(task, source, rows, labels=said, classes=list(classes))
    form = Classification(TEXTS[: len(task.text_columns)], classes, [metric], task.max_length)
    return form.task_data(tokenizer, rows.pop("train"), rows, description)


def _check_columns(task: TextSettings) -> None:
    columns = task.text_columns
    if len(columns) not in (1, 2) or len(set(columns)) < len(columns):
        raise UserError(
            f"task.text_columns=[{','.join(columns)}]: expected one or two columns of text, as in [first,second]."
        )
    if task.label_column in columns:
        raise UserError(
            f"task.label_column={task.label_column}: is one of task.text_columns too. Name the column of the classes."
        )


def _files(task: TextSettings) -> dict[str, _File]:
    """Returns the file of each split."""
    if task.train_file is None or task.eval_file is None:
        raise UserError("task=text needs task.train_file=FILE and task.eval_file=FILE (CSV, TSV, JSON Lines, Parquet).")
    return {
        "train": _File("task.train_file", Path(task.train_file), task.max_train_rows),
        "evaluation": _File("task.eval_file", Path(task.eval_file), task.max_eval_rows),
    }


def _read(task: TextSettings, file: _File) -> tuple[list[Row], list[Given]]:
    """Returns the texts of a file's rows, and the labels as the file has them."""
    texts: list[Row] = []
    labels: list[Given] = []
    columns: list[str] = []
    long: list[tuple[str, Row]] = []  # rows of several lines
    for position, row in islice(read_file(file.path, str(file)), file.limit):
        if not columns:
            columns = list(row)
            _check_found(task, columns, file)
        where = f"{file}, {position}"
        texts.append({name: _text(row, column, where) for name, column in zip(TEXTS, task.text_columns, strict=False)})
        labels.append(Given(_label(row.get(task.label_column), task.label_column, where), where))
        if not file.typed and goes_over_lines(row):
            long.append((where, row))
    if not texts:
        raise UserError(f"{file}: has no rows. Give it at least one.")
    if long:
        known = {str(given.label) for given in labels}
        check_swallowed(long, SEPARATORS[file.path.suffix.lower()], task.label_column, known)
        _log.warning("%s: %d rows go over several lines, as texts in quotes may.", long[0][0], len(long))
    return texts, labels


def _check_found(task: TextSettings, columns: Sequence[str], file: _File) -> None:
    settings = dict.fromkeys(task.text_columns, "task.text_columns") | {task.label_column: "task.label_column"}
    for column, setting in settings.items():
        if column not in columns:
            raise UserError(
                f"{file}: column '{column}' is missing, {nearest(column, columns)}found {listed(list(columns)):.150}. "
                f"Set {setting} to what the file has."
            )


def _text(row: Row, column: str, where: str) -> str:
    text = row.get(column)
    check_filled(text, column, where)
    return str(text)


def _label(label: object, column: str, where: str) -> Label:
    missing = isinstance(label, float) and not math.isfinite(label)  # as JSON and Parquet write what is not there
    if missing or not isinstance(label, Label) or (isinstance(label, str) and not label.strip()):
        raise UserError(
            f"{where}: column '{column}' is {label!r:.40}, expected a class or a grade. Fill it in, or remove that row."
        )
    return label


def metric_of(task: TextSettings, classes: Sequence[str]) -> str:
    """Returns the name of the score.

    Raises:
        UserError: the one that is asked for is of the other kind of labels.
    """
    if task.metric is None:
        return "accuracy" if classes else "pearson"
    check_metrics([task.metric.name], regression=not classes, key=f"task.metric={task.metric.name}")
    return task.metric.name
