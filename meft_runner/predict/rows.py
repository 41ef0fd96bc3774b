"""Rows that are to be answered, from a file or a split of the run's task, and the answers as a file."""

import csv
import io
import json
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from meft_runner.config import DemoSettings, LanguageSettings, SplitSettings, TaskSettings, TextSettings, kind_of
from meft_runner.errors import UserError, first_line, reason_of
from meft_runner.files import write_whole
from meft_runner.tasks import demo
from meft_runner.tasks.data import Row, row_limits
from meft_runner.tasks.files import SEPARATORS, read_file
from meft_runner.tasks.language_forms import Form
from meft_runner.tasks.language_rows import EVALUATION, TRAIN, Placed, find_rows
from meft_runner.tasks.rows import load_rows, origin

NAMES = ("id", "idx")  # columns that tell rows apart; answers have them too
# The column that CSV has as JSON in a cell, by the kind of task that has one.
_NESTED = {"choice": "choices", "squad": "answers", "chat": "messages"}
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_WRITING_ERRORS = (OSError, pyarrow.ArrowException)


def rows_of_file(path: Path, task: TaskSettings) -> list[Placed]:
    """Returns the rows of a file, as a task has them.

    Raises:
        UserError: it is missing, cannot be read, is of no known kind or has no rows.
    """
    where = f"input={path}"
    typed = path.suffix.lower() not in SEPARATORS
    rows = [
        Placed(row if typed else _cells(row, kind_of(task), f"{where}, {position}"), f"{where}, {position}")
        for position, row in read_file(path, where)
    ]
    return _some(rows, where)


def _some(rows: list[Placed], where: str) -> list[Placed]:
    if not rows:
        raise UserError(f"{where}: has no rows. Give it at least one.")
    return rows


def _cells(row: Row, kind: str, where: str) -> Row:
    """Returns a row of text cells with what only a type can tell: lists and objects, and the number of an answer."""
    name, label = _NESTED.get(kind), row.get("label")
    found: Row = {}
    if name is not None and row.get(name):
        found[name] = _parsed(name, row[name], where)
    if kind == "choice" and label is not None and _NUMBER.fullmatch(label):  # other kinds know labels as text
        found["label"] = int(label)
    return row | found


def _parsed(name: str, cell: str, where: str) -> Any:
    try:
        return json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{where}: column '{name}' is {cell!r:.60}, expected JSON ({first_line(error)}). Write it as JSON, or save "
            "the file as JSON Lines."
        ) from error


def rows_of_split(task: TaskSettings, split: str, form: Form | None) -> list[Placed]:
    """Returns the rows of a split of the run's task, as many as the run has used of it.

    Args:
        task: of texts.
        split: its name.
        form: of a language model's rows.

    Raises:
        UserError: there is no such split, it is unreachable, or a row does not fit.
    """
    if isinstance(task, SplitSettings):
        rows, _ = load_rows(task, split, row_limits(task).get(split), lambda row, where: None)
        where = origin(task, split)
        return [Placed(row, f"{where}, row {number}") for number, row in enumerate(rows, start=1)]
    if isinstance(task, DemoSettings):
        _check_split(split, list(demo.SEEDS))
        made = demo.generate(split, task.max_train_rows if split == "train" else task.max_eval_rows)
        return [Placed(row, f"task=demo, {split}, row {number}") for number, row in enumerate(made, start=1)]
    _check_split(split, [EVALUATION, TRAIN])
    if isinstance(task, LanguageSettings):
        assert form is not None
        return find_rows(task, form.read).splits[split]
    assert isinstance(task, TextSettings)
    of_training = split == TRAIN
    setting, limit = ("train_file", task.max_train_rows) if of_training else ("eval_file", task.max_eval_rows)
    where = f"task.{setting}={getattr(task, setting)}"
    found = islice(read_file(Path(str(getattr(task, setting))), where), limit)
    return _some([Placed(row, f"{where}, {position}") for position, row in found], where)


def _check_split(split: str, known: Sequence[str]) -> None:
    if split not in known:
        raise UserError(f"split={split}: the run's task has no such split, expected {' or '.join(known)}.")


def named(rows: Sequence[Placed], answers: Sequence[Row]) -> list[Row]:
    """Returns answers with the columns that tell their rows apart, before all others.

    Those of several types become texts, as a column of Parquet has one type.
    """
    names = {}
    for name in NAMES:
        values = [each.row.get(name) for each in rows]
        if any(value is not None for value in values):
            mixed = len({type(value) for value in values if value is not None}) > 1
            names[name] = [None if value is None else str(value) if mixed else value for value in values]
    return [{name: values[number] for name, values in names.items()} | answer for number, answer in enumerate(answers)]


def write_answers(path: Path, answers: Sequence[Row]) -> None:
    """Writes answers in the form that a file's ending names, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    try:
        write_whole(path, _WRITERS[path.suffix.lower()](answers))
    except _WRITING_ERRORS as error:
        raise UserError(f"output={path}: cannot be written ({reason_of(error)}). Choose another file.") from error


def _json_lines(answers: Sequence[Row]) -> str:
    return "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)


def _csv(answers: Sequence[Row]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, _columns(answers), lineterminator="\n")
    table.writeheader()
    table.writerows({name: _cell(value) for name, value in answer.items()} for answer in answers)
    return text.getvalue()


def _columns(answers: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for answer in answers for name in answer))


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def _parquet(answers: Sequence[Row]) -> bytes:
    sink = io.BytesIO()
    columns = {name: [answer.get(name) for answer in answers] for name in _columns(answers)}
    parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue()


_WRITERS: dict[str, Any] = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}
