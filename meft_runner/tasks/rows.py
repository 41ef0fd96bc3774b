"""Reading the rows of a published data set, from the hub or from local files, and checking their columns."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset_builder
from datasets.exceptions import DatasetsError
from pyarrow import ArrowException

from meft_runner.backbones.hub import commit_of, explained, lacking, unreadable
from meft_runner.backbones.hub_errors import HubSource
from meft_runner.config import LanguageSettings, SplitSettings
from meft_runner.errors import UserError, in_brief
from meft_runner.tasks.data import Row, row_limits
from meft_runner.tasks.files import read_file

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: JSON can write it, UTF-8 cannot


@dataclass(frozen=True)
class Splits:
    """The rows of a published data set that are used.

    Attributes:
        rows: by split, those of training first.
        source: the folder or the hub's repository.
        revision: the repository's commit; None for a folder.
    """

    rows: dict[str, list[Row]]
    source: str
    revision: str | None


def load_splits(task: SplitSettings, check: Callable[[Row, str], Any]) -> Splits:
    """Returns the rows of all splits of a task.

    Args:
        task: where they are, and how many of them are used.
        check: is called with each row and its place, and raises a UserError where it does not fit.

    Raises:
        UserError: a split cannot be found or reached, is empty, or one of its rows does not fit.
    """
    rows: dict[str, list[Row]] = {}
    revision = None
    for split, limit in row_limits(task).items():
        rows[split], revision = load_rows(task, split, limit, check)
    return Splits(rows, task.data_dir or task.hub, revision)


def load_rows(
    task: SplitSettings, split: str, limit: int | None, check: Callable[[Row, str], Any]
) -> tuple[list[Row], str | None]:
    """Returns the rows of a split, at most `limit` of them, and the commit that they are from; None for a folder.

    Args:
        task: where they are.
        split: its name.
        limit: None for all.
        check: is called with each row and its place, and raises a UserError where it does not fit.

    Raises:
        UserError: the split cannot be found or reached, is empty, or one of its rows does not fit.
    """
    where, revision = origin(task, split), None
    if task.data_dir is not None:
        rows = [row for _, row in islice(read_file(Path(where), where), limit)]
    else:
        found, revision = load_hub_split(task, split, limit)
        rows = found.to_list()
    if not rows:
        raise UserError(f"task={task.name}: {where} is empty. Give it at least one row.")
    for number, row in enumerate(rows, start=1):
        check(row, f"{where}, row {number}")
    return rows, revision


def origin(task: SplitSettings, split: str) -> str:
    """Returns the file or the part of the hub's repository that holds a split.

    Raises:
        UserError: the folder or the file is not there.
    """
    if task.data_dir is not None:
        return str(split_path(task, split, f"{split}.jsonl"))
    return " ".join([task.hub, *([f"({task.hub_config})"] if task.hub_config else []), split])


def place(task: SplitSettings, split: str, number: int) -> str:
    """Returns how errors call a row, counted from 1."""
    return f"{origin(task, split)}, row {number}"


def split_path(task: SplitSettings, split: str, *names: str) -> Path:
    """Returns the first of a split's possible files that is there.

    Raises:
        UserError: none is, or a revision is asked for, which only the hub has.
    """
    if task.revision is not None:
        raise UserError(f"task.revision={task.revision}: is of the hub, not of task.data_dir. Remove one of the two.")
    folder = Path(str(task.data_dir))
    if not folder.is_dir():
        raise UserError(f"task.data_dir={folder}: no such folder. Give one that holds {' or '.join(names)}.")
    for name in names:
        if (folder / name).exists():
            return folder / name
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise UserError(f"task.data_dir={folder}: {' or '.join(names)} is missing (found: {found}). Add the {split} split.")


def load_hub_split(task: SplitSettings | LanguageSettings, split: str, limit: int | None) -> tuple[Dataset, str]:
    """Loads a split from the hub.

    Returns:
        Its rows, at most `limit` of them where that is given, and the commit that they are from.

    Raises:
        UserError: it cannot be had, or the cache holds another revision and the hub cannot be reached.
    """
    takes_files = isinstance(task, LanguageSettings)
    source = HubSource("task", task.name, str(task.hub), task.revision, takes_files)
    commit = commit_of(source)
    with explained(source, (DatasetsError, ArrowException)):
        builder = load_dataset_builder(source.repository, task.hub_config, revision=commit)
        if builder.hash != commit:  # the library takes the rows it has prepared last, whatever their revision
            what = f"the hub cannot be reached, and the cache holds revision {builder.hash} in place of {commit}"
            raise UserError(source.line(what, f"Set task.revision={builder.hash}"))
        builder.download_and_prepare()
    if split not in builder.info.splits:
        raise UserError(lacking(source, f"split '{split}' ({', '.join(builder.info.splits)})"))
    try:
        rows = builder.as_dataset(split)
    except (OSError, ValueError, ArrowException) as error:
        raise UserError(unreadable(source, f"split '{split}'", in_brief(error), builder.cache_dir)) from error
    return rows.select(range(min(limit or len(rows), len(rows)))), commit


def check_columns(row: Row, columns: Sequence[str], where: str) -> None:
    """Makes sure that a row has the columns that a task reads.

    Raises:
        UserError: names the one that it has not.
    """
    for column in columns:
        if column not in row:
            raise UserError(
                f"{where}: column '{column}' is missing (found: {', '.join(row)}). Expected {', '.join(columns)}."
            )


def check_text(value: Any, column: str, where: str) -> None:
    """Makes sure that a value is text that can be encoded.

    Raises:
        UserError: it is not.
    """
    if not isinstance(value, str) or _LONE_SURROGATE.search(value):
        raise UserError(f"{where}: column '{column}' is {value!r:.60}, expected text. Mend or remove that row.")


def check_texts(row: Row, columns: Sequence[str], where: str) -> None:
    """Makes sure that a row has columns, and text that can be encoded in each.

    Raises:
        UserError: it has not.
    """
    check_columns(row, columns, where)
    for column in columns:
        check_text(row[column], column, where)


def check_filled(value: Any, column: str, where: str) -> None:
    """Makes sure that a value is text that can be encoded and has more than blanks.

    Raises:
        UserError: it is not.
    """
    check_text(value, column, where)
    if not value.strip():
        raise UserError(f"{where}: column '{column}' is empty. Mend or remove that row.")
