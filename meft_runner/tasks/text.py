"""The user's own files: rows of one or two texts with a class or a grade.

JSON Lines and Parquet say what is text and what is a number. CSV and TSV do not, and their readers guess a type
from a column's values, anew for every part of a large file: whole numbers turn into fractions where one is missing,
and a text such as 1984 or NA into a number or nothing. So every cell is read as text here, and only an empty one is
missing. The labels are then grades if all of them are numbers and not all are whole.
"""

import glob
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Features, Value, load_dataset
from transformers import PreTrainedTokenizerBase

from meft_runner.config import TextSettings
from meft_runner.errors import UserError, listed, nearest
from meft_runner.tasks.classification import Classification
from meft_runner.tasks.data import Row, TaskData, describe
from meft_runner.tasks.metrics import check_metrics
from meft_runner.tasks.rows import check_text

Label = str | int | float

_BUILDERS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_TEXTS = ("first", "second")  # the texts' names in our rows, where a column of the user's cannot clash with `label`
_WHOLE_NUMBER = re.compile(r"[+-]?\d{1,18}")  # as many digits as 64 bits hold
_LARGEST_GRADE = float(np.finfo(np.float32).max)  # models compute with 32 bits at the most

logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)  # what the readers log they raise as well


@dataclass(frozen=True)
class _File:
    """One of the user's files.

    Attributes:
        setting: that names it.
        path: where it is.
        limit: how many of its rows are read; None for all.
    """

    setting: str
    path: str
    limit: int | None

    @property
    def suffix(self) -> str:
        return Path(self.path).suffix.lower()

    def __str__(self) -> str:
        return f"{self.setting}={self.path}"


def load(task: TextSettings, tokenizer: PreTrainedTokenizerBase) -> TaskData:
    """Reads, checks and tokenises the user's rows.

    Raises:
        UserError: a file is not given, missing, broken or empty, a column is missing, a row does not fit, or the
            labels do not make a task.
    """
    _check_columns(task)
    files = _files(task)
    rows = {split: _read(task, file) for split, file in files.items()}
    labels = [row["label"] for row in rows["train"]]
    classes = class_names(labels, typed=files["train"].suffix not in _SEPARATORS)
    if len(classes) == 1:
        raise UserError(
            f"{files['train']}: all {len(labels)} rows have the label '{classes[0]}'. "
            "Train with rows of at least two classes."
        )
    metric = _metric(task, classes)
    rows = {split: _numbered(rows[split], classes, file) for split, file in files.items()}
    form = Classification(_TEXTS[: len(task.text_columns)], classes, [metric], task.max_length)
    description = describe(f"{task.train_file}, {task.eval_file}", rows, classes=classes)
    return form.task_data(tokenizer, rows.pop("train"), rows, description)


def class_names(labels: Sequence[Label], typed: bool) -> list[str]:
    """Returns the classes that labels name, whole numbers by size and other names by alphabet.

    Args:
        labels: of the training rows.
        typed: whether the file tells numbers from text; if not, all labels are text.

    Returns:
        Each class once; none where the labels are grades.
    """
    names = {str(label) for label in labels}
    whole = all(_WHOLE_NUMBER.fullmatch(name) for name in names)
    if typed:
        grades = any(isinstance(label, float) for label in labels)
    else:
        grades = not whole and None not in map(_number, names)
    if grades:
        return []
    return sorted(names, key=lambda name: (int(name), name)) if whole else sorted(names)


def _check_columns(task: TextSettings) -> None:
    if len(task.text_columns) not in (1, 2):
        given = ",".join(task.text_columns)
        raise UserError(f"task.text_columns=[{given}]: expected one or two columns of text, as in [first,second].")
    if task.label_column in task.text_columns:
        raise UserError(
            f"task.label_column={task.label_column}: is one of task.text_columns too. Name the column of the classes."
        )


def _files(task: TextSettings) -> dict[str, _File]:
    """Returns the file of each split."""
    if task.train_file is None or task.eval_file is None:
        raise UserError("task=text needs task.train_file=FILE and task.eval_file=FILE (CSV, TSV, JSON Lines, Parquet).")
    return {
        "train": _File("task.train_file", task.train_file, task.max_train_rows),
        "evaluation": _File("task.eval_file", task.eval_file, task.max_eval_rows),
    }


def _read(task: TextSettings, file: _File) -> list[Row]:
    """Returns a file's rows with their texts and a `label` as the file has it."""
    if file.suffix not in _BUILDERS:
        raise UserError(f"{file}: expected a name that ends in {', '.join(_BUILDERS)}. Convert or rename the file.")
    if not Path(file.path).is_file():
        raise UserError(f"{file}: no such file. Check the path; a relative one starts at {Path.cwd()}.")
    try:
        found = list(islice(_rows_of(file), file.limit))
    except Exception as error:  # the formats' readers have no kind of error in common
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{file}: cannot be read as {file.suffix} ({reason}). Mend the file, or save it anew as UTF-8."
        ) from error
    if not found:
        raise UserError(f"{file}: has no rows. Give it at least one.")
    _check_found(task, found[0], file)
    return [_row(task, row, f"{file}, row {number}") for number, row in enumerate(found, start=1)]


def _rows_of(file: _File) -> Iterable[Row]:
    """Returns the rows as the file has them.

    They are streamed: read again each time, with neither a cache that could be stale nor a progress bar.
    """
    if Path(file.path).stat().st_size == 0:
        return []
    options: dict[str, Any] = {}
    if file.suffix in _SEPARATORS:
        options = _csv_options(file.path, _SEPARATORS[file.suffix])
    elif file.suffix == ".parquet":
        options = {"batch_size": 1000}  # left to itself, the reader takes a table without rows for a broken one
    pattern = glob.escape(file.path)  # the reader globs: a[1].csv would be a1.csv
    return load_dataset(_BUILDERS[file.suffix], data_files=pattern, split="train", streaming=True, **options)


def _csv_options(path: str, separator: str) -> dict[str, Any]:
    """Returns what makes the CSV reader take every cell for text, and only empty ones for missing."""
    head = pd.read_csv(path, sep=separator, nrows=1)
    if not isinstance(head.index, pd.RangeIndex):  # pandas takes the first cells for the rows' names then
        raise ValueError("row 1 has more cells than the header; is a separator inside a text not quoted?")
    text = Features({str(column): Value("string") for column in head.columns})
    return {"sep": separator, "features": text, "keep_default_na": False, "na_values": [""]}


def _check_found(task: TextSettings, row: Row, file: _File) -> None:
    settings = dict.fromkeys(task.text_columns, "task.text_columns") | {task.label_column: "task.label_column"}
    for column, setting in settings.items():
        if column not in row:
            raise UserError(
                f"{file}: column '{column}' is missing, {nearest(column, row)}found {listed(list(row))}. "
                f"Set {setting} to what the file has."
            )


def _row(task: TextSettings, row: Row, where: str) -> Row:
    for column in task.text_columns:
        check_text(row.get(column), column, where)
    label = row.get(task.label_column)
    if isinstance(label, str):
        label = label.strip()
    if label == "" or not isinstance(label, Label):
        raise UserError(
            f"{where}: column '{task.label_column}' is {label!r}, expected a class or a grade. "
            "Fill it in, or remove that row."
        )
    texts = [row[column] for column in task.text_columns]
    return dict(zip(_TEXTS, texts, strict=False)) | {"label": label}


def _numbered(rows: list[Row], classes: Sequence[str], file: _File) -> list[Row]:
    """Returns rows with class numbers, or with grades where there are no classes, as their `label`."""
    numbers = {name: number for number, name in enumerate(classes)}
    numbered = []
    for position, row in enumerate(rows, start=1):
        where = f"{file}, row {position}"
        label = _class_number(row["label"], numbers, where) if classes else _grade(row["label"], where)
        numbered.append(row | {"label": label})
    return numbered


def _class_number(label: Label, numbers: dict[str, int], where: str) -> int:
    if str(label) not in numbers:
        raise UserError(
            f"{where}: label {label!r} does not occur in training, where the classes are {listed(list(numbers))}. "
            "Mend or remove that row, or train with rows of that class."
        )
    return numbers[str(label)]


def _grade(label: Label, where: str) -> float:
    grade = _number(label)
    if grade is None or not abs(grade) <= _LARGEST_GRADE:  # NaN is not
        raise UserError(f"{where}: label {label!r}, expected a finite number as its grade. Mend or remove that row.")
    return grade


def _number(label: Label) -> float | None:
    try:
        return float(str(label))  # of its text, so that True is none
    except ValueError:
        return None


def _metric(task: TextSettings, classes: Sequence[str]) -> str:
    """Returns the name of the score."""
    if task.metric is None:
        return "accuracy" if classes else "pearson"
    check_metrics([task.metric.name], regression=not classes, key=f"task.metric={task.metric.name}")
    return task.metric.name
