"""Rows that a language model learns to write, from the user's files or the data hub, and those held out to score."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from meft_runner.config import LanguageSettings, kind_of
from meft_runner.errors import UserError
from meft_runner.tasks.data import Row
from meft_runner.tasks.files import read_file
from meft_runner.tasks.language_forms import COLUMNS
from meft_runner.tasks.rows import load_hub_split

TRAIN, EVALUATION = "train", "evaluation"  # the splits, as records call them
_HELD_OUT_SEED = 0  # not the run's: all runs are scored on the same rows


@dataclass(frozen=True)
class Placed:
    """A row, and how errors call its place."""

    row: Row
    where: str

    @property
    def source(self) -> str:
        """How errors call what the row is of."""
        return self.where.rpartition(", ")[0]


@dataclass(frozen=True)
class Source:
    """Rows before they are checked.

    Attributes:
        name: where they came from.
        rows: by number; read when they are asked for, where that saves memory.
        place: how errors call a row, by its number.
        revision: of the hub's repository, None for a file.
    """

    name: str
    rows: Sequence[Row] | Dataset
    place: Callable[[int], str]
    revision: str | None = None


@dataclass(frozen=True)
class Found:
    """The rows of a task.

    Attributes:
        splits: checked rows by split, those of training first.
        source: where they came from.
        revision: of the hub's repository, None for files.
        note: what there is to say of rows that are held out; None where none are.
    """

    splits: dict[str, list[Placed]]
    source: str
    revision: str | None
    note: str | None


def find_rows(task: LanguageSettings, read: Callable[[Row, str], Row]) -> Found:
    """Returns the rows of a task.

    Args:
        task: where they are, and how many of them are used.
        read: returns what is used of a row at a place, and raises a UserError where it does not fit.

    Raises:
        UserError: there are none, they cannot be read or reached, or one of them does not fit.
    """
    train, evaluation, note = _training(task), _development(task), None
    numbers: Sequence[int]
    held_out: Sequence[int]
    if evaluation is None:
        numbers, held_out = _parted(task, len(train.rows), train.name)
        evaluation = train
        note = (
            f"{len(held_out):,} of {len(train.rows):,} rows of {Path(train.name).name} are held out to score "
            f"(task.eval_fraction={task.eval_fraction:g}), the same ones for every seed"
        )
    else:
        numbers, held_out = range(len(train.rows)), range(len(evaluation.rows))
    splits = {
        TRAIN: _checked(train, numbers[: task.max_train_rows], read),
        EVALUATION: _checked(evaluation, held_out[: task.max_eval_rows], read),
    }
    source = ", ".join(dict.fromkeys((train.name, evaluation.name)))
    return Found(splits, source, train.revision or evaluation.revision, note)


def _training(task: LanguageSettings) -> Source:
    if task.train_file is not None:
        limit = None if task.eval_file is None else task.max_train_rows  # rows are held out of all of them
        return _of_file(task, "train_file", task.train_file, limit)
    if task.hub is None:
        columns = " and ".join(COLUMNS[kind_of(task)])
        raise UserError(
            f"task={task.name}: needs task.train_file=FILE (JSON Lines, CSV, TSV, Parquet) with {columns}, "
            "or task.hub=NAME of a data set."
        )
    return _of_hub(task, task.train_split, None)


def _development(task: LanguageSettings) -> Source | None:
    if task.eval_file is not None:
        return _of_file(task, "eval_file", task.eval_file, task.max_eval_rows)
    if task.train_file is None and task.eval_split is not None:
        return _of_hub(task, task.eval_split, task.max_eval_rows)
    return None


def _of_file(task: LanguageSettings, setting: str, path: str, limit: int | None) -> Source:
    where = f"task.{setting}={path}"
    found = list(islice(read_file(Path(path), where), limit))
    if not found:
        raise UserError(f"{where}: has no rows. Give it at least one.")
    _check_kind(task, list(found[0][1]), where)
    return Source(path, [row for _, row in found], lambda number: f"{where}, {found[number][0]}")


def _of_hub(task: LanguageSettings, split: str, limit: int | None) -> Source:
    rows, commit = load_hub_split(task, split, limit)
    where = f"task.hub={task.hub}, {split}"
    if not len(rows):
        raise UserError(f"{where}: has no rows. Choose another split.")
    return Source(str(task.hub), rows, lambda number: f"{where}, row {number + 1}", commit)


def _check_kind(task: LanguageSettings, columns: list[str], where: str) -> None:
    """Makes sure that a file's columns are of this kind of rows alone."""
    own = COLUMNS[kind_of(task)]
    others = {kind: names for kind, names in COLUMNS.items() if names != own and set(names) <= set(columns)}
    for kind, names in others.items():
        if set(own) <= set(columns):
            raise UserError(
                f"{where}: has {_words(own)} and {_words(names)}, so it could be meant for task={task.name} or "
                f"task={kind}. Remove one of them."
            )
        raise UserError(f"{where}: has {_words(names)} in place of {_words(own)}. Take task={kind} for such rows.")


def _words(columns: Sequence[str]) -> str:
    return "columns " + " and ".join(f"'{name}'" for name in columns) if len(columns) > 1 else f"column '{columns[0]}'"


def _parted(task: LanguageSettings, rows: int, name: str) -> tuple[list[int], list[int]]:
    """Returns the numbers of the rows to train on and of those held out, each in their order."""
    count = max(1, round(rows * task.eval_fraction))
    if count >= rows:
        raise UserError(
            f"{name}: has too few rows ({rows}) to hold out task.eval_fraction={task.eval_fraction:g} of them. "
            "Add rows, or set task.eval_file=FILE."
        )
    held_out = set(np.random.default_rng(_HELD_OUT_SEED).permutation(rows)[:count].tolist())
    return [n for n in range(rows) if n not in held_out], sorted(held_out)


def _checked(source: Source, numbers: Sequence[int], read: Callable[[Row, str], Row]) -> list[Placed]:
    rows: Any = source.rows
    placed = []
    for number in numbers:
        where = source.place(number)
        placed.append(Placed(read(rows[number], where), where))
    return placed
