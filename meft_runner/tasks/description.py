"""What a record says of a task's rows, and what a user must hear about them before they are trained on."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from unicodedata import normalize

from meft_runner.config import TaskSettings, kind_of
from meft_runner.errors import UserError, listed
from meft_runner.tasks.data import Row

_log = logging.getLogger(__name__)
_MOST = 0.5  # the share of rows, of the smaller split, that training and scoring may have in common unsaid


def describe(task: TaskSettings, source: str, splits: Mapping[str, list[Row]], **more: Any) -> dict[str, Any]:
    """Returns what the record says of a task's rows; says which of them are for training and for scoring at once.

    Args:
        task: the settings.
        source: where they came from.
        splits: the rows by split, those of training first.
        **more: what else there is to say.
    """
    lines = {name: [_line(row) for row in rows] for name, rows in splits.items()}
    counts = {name: {"rows": len(part), "fingerprint": _digest(part)} for name, part in lines.items()}
    train, *development = lines
    known_rows = set(map(hash, lines[train]))
    for name in development:
        shared = sum(hash(line) in known_rows for line in lines[name])
        if shared > _MOST * min(len(lines[train]), len(lines[name])):
            what = f"{shared} of {len(lines[name])} {name} rows"
            _log.warning("%s are training rows too: their score shows what was learnt by heart.", what)
    known = {"revision": None, "synthetic": False, "labels": None}
    return {"source": source, "kind": kind_of(task), "version": task.version, "splits": counts, **known, **more}


def describe_labelled(
    task: TaskSettings,
    source: str,
    classes: Sequence[str],
    splits: Mapping[str, list[Row]],
    places: Mapping[str, str],
    **more: Any,
) -> dict[str, Any]:
    """Checks the labels of each split, and returns what `describe` does, with the labels in words.

    `places` is what messages call each split; the other arguments are those of the functions below.

    Raises:
        UserError: all rows of training have one label, or a class is there twice.
    """
    train, *development = splits
    check_training_labels(task, classes, splits[train], places[train])
    for split in development:
        check_evaluation_labels(task, classes, splits[split], places[split])
    return describe(task, source, splits, labels=labels_text(classes, splits[train]), **more)


def with_cut(description: dict[str, Any], cut: Mapping[str, int], max_length: int, how: str = "") -> dict[str, Any]:
    """Returns a description that counts the rows that are cut, and tells where there are some.

    Args:
        description: what `describe` returns.
        cut: how many rows of each split were longer than the longest allowed.
        max_length: in tokens.
        how: what the notes have to say besides.
    """
    counts = {name: part | {"cut": cut[name]} for name, part in description["splits"].items()}
    notes = [cut_note(name, cut[name], part["rows"], max_length) + how for name, part in counts.items() if cut[name]]
    return description | {"splits": counts, "notes": [*description.get("notes", []), *notes]}


def cut_note(split: str, cut: int, rows: int, max_length: int) -> str:
    """Returns how many of a split's rows are cut, in words."""
    return f"{cut:,} of {rows:,} rows of {split} cut to task.max_length={max_length} tokens"


def fingerprint(rows: Iterable[Row]) -> str:
    """Returns a digest of the rows' content and order."""
    return _digest(map(_line, rows))


def labels_text(classes: Sequence[str], rows: Sequence[Row]) -> str:
    """Returns what the labels are, in words.

    Args:
        classes: class names; empty for regression.
        rows: of training, each with a `label`.
    """
    if classes:
        return f"classes {listed(classes)}" + (f" ({len(classes)})" if len(classes) > 8 else "")
    grades = [float(row["label"]) for row in rows]
    return f"regression over {min(grades)} to {max(grades)}"


def check_training_labels(task: TaskSettings, classes: Sequence[str], rows: Sequence[Row], where: str) -> None:
    """Makes sure that training can tell labels apart; says which classes have no rows.

    Args:
        task: the settings.
        classes: class names in the order of their numbers; empty for regression.
        rows: of training, each with a `label`, a class number or a grade.
        where: how messages call them.

    Raises:
        UserError: all rows have one label, or a class is there twice.
    """
    _check_names(classes)
    cut = _way_out("max_train_rows", task.max_train_rows, rows)
    labels = {row["label"] for row in rows}
    if len(labels) == 1:
        (label,) = labels
        name = classes[label] if classes else label
        raise UserError(f"{where}: all {len(rows)} rows have the label '{name}'.{cut or ' Add rows of another one.'}")
    _tell_missing(classes, labels, where, cut)


def check_evaluation_labels(task: TaskSettings, classes: Sequence[str], rows: Sequence[Row], where: str) -> None:
    """Says which classes have no rows, and where grades are such that no correlation is defined."""
    cut = _way_out("max_eval_rows", task.max_eval_rows, rows)
    labels = {row["label"] for row in rows}
    if not classes and len(labels) == 1:
        _log.warning("%s: all %d grades are the same, so that no correlation is defined.%s", where, len(rows), cut)
    _tell_missing(classes, labels, where, cut)


def _tell_missing(classes: Sequence[str], labels: set[int], where: str, cut: str) -> None:
    missing = [name for number, name in enumerate(classes) if number not in labels]
    if missing:
        _log.warning("%s: no row has the class %s.%s", where, listed(missing), cut)


def _way_out(setting: str, limit: int | None, rows: Sequence[Row]) -> str:
    """Returns what to do where the rows that were cut off may be of other classes."""
    return f" Raise task.{setting}={limit}, or shuffle the rows before." if limit == len(rows) else ""


def _check_names(classes: Sequence[str]) -> None:
    """Makes sure that each class is there once; says which names differ in their spelling alone."""
    seen: dict[str, str] = {}
    for name in classes:
        spelling = normalize("NFC", " ".join(name.split()).casefold())  # an accent may be a part of its letter or not
        if classes.count(name) > 1:
            raise UserError(f"task.classes: '{name}' is given twice. Give each class once, in the order of the labels.")
        if spelling in seen:
            _log.warning("classes '%s' and '%s' differ only in spelling, and count as two.", seen[spelling], name)
        seen[spelling] = name


def _digest(lines: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(lines)).hexdigest()[:16]


def _line(row: Row) -> bytes:
    return json.dumps(row, sort_keys=True).encode() + b"\n"
