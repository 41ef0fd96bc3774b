"""Labels that tell things apart which have the same name: two data sets called train.csv, two models called bert."""

import hashlib
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from meft_runner.errors import printable
from meft_runner.records.schema import CompleteRecord

_LONGEST = 40  # characters of what a user has named


@dataclass(frozen=True)
class Label:
    """The name of something, with the marks that it always has: "cola (2000 rows)"."""

    name: str
    marks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.marks)})" if self.marks else self.name


Mark = Callable[[CompleteRecord], str]


def told_apart(
    records: Sequence[CompleteRecord],
    label: Callable[[CompleteRecord], Label],
    key: Callable[[CompleteRecord], Hashable],
    marks: Sequence[Mark],
) -> list[str]:
    """Returns the label of each record, so that equal labels mean equal keys.

    Args:
        records: that stand beside each other.
        label: what a record is called where nothing else of this name has another key.
        key: what records that share a label must have in common.
        marks: what may be added to a label; the first that differs wherever the keys do is taken.
    """
    found: dict[Label, dict[Hashable, CompleteRecord]] = {}
    for record in records:
        found.setdefault(label(record), {}).setdefault(key(record), record)
    texts = {name: _texts(name, different, marks) for name, different in found.items()}
    return [texts[label(record)][key(record)] for record in records]


def one_line(text: str) -> str:
    """Returns what a user has named as a label may show it: on one line, and not too long."""
    shown = printable(text)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}..."


def file_name(path: str) -> str:
    """Returns the last part of a path or of a repository's name, for a label."""
    return one_line(PurePath(path).name or path)


def digest(content: object) -> str:
    """Returns a short name of something that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def _texts(label: Label, different: Mapping[Hashable, CompleteRecord], marks: Sequence[Mark]) -> dict[Hashable, str]:
    if len(different) == 1:
        return dict.fromkeys(different, str(label))
    for mark in marks:
        texts = {key: str(Label(label.name, (*label.marks, mark(record)))) for key, record in different.items()}
        if len(set(texts.values())) == len(different):
            return texts
    raise ValueError(f"{label}: no mark tells {len(different)} apart")
