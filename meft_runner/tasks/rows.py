"""Reading and checking the rows of a data set: from the hub, from local files, or generated."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import load_dataset

from meft_runner.errors import UserError
from meft_runner.settings import TaskKind, TaskSettings
from meft_runner.tasks import demo

Row = dict[str, Any]
_LARGEST_LABEL = 1e6  # beyond any scale that sentences are graded on
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: JSON can write it, UTF-8 cannot


def load_rows(task: TaskSettings, split: str, limit: int | None) -> list[Row]:
    """Returns the checked rows of a split, at most `limit` of them.

    Raises:
        UserError: the split cannot be found or reached, or one of its rows is not as the task needs it.
    """
    if task.data_dir is not None:
        origin = str(_split_file(task, split))
        rows = list(islice(_json_lines(Path(origin)), limit))
    elif task.kind is TaskKind.demo:
        origin = f"demo {split}"
        rows = demo.generate(split, limit)
    else:
        origin = f"{task.hub} ({task.hub_config}) {split}"
        rows = _from_hub(task, split, limit)
    if not rows:
        raise UserError(f"task={task.name}: {origin} is empty. Give it at least one row.")
    for number, row in enumerate(rows, start=1):
        _check_row(task, row, f"{origin}, row {number}")
    return rows


def _split_file(task: TaskSettings, split: str) -> Path:
    assert task.data_dir is not None
    folder = Path(task.data_dir)
    if not folder.is_dir():
        raise UserError(f"task.data_dir={folder}: no such folder. Give one that holds {split}.jsonl.")
    path = folder / f"{split}.jsonl"
    if not path.is_file():
        found = ", ".join(sorted(p.name for p in folder.glob("*.jsonl"))) or "no .jsonl file"
        raise UserError(f"task.data_dir={folder}: {split}.jsonl is missing (found: {found}). Add the {split} split.")
    return path


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}, line {number}: not JSON ({error}). Mend or remove that line.") from error
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: expected a JSON object with the columns as keys.")
            yield row


def _from_hub(task: TaskSettings, split: str, limit: int | None) -> list[Row]:
    assert task.hub is not None
    try:
        dataset = load_dataset(task.hub, task.hub_config, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"task={task.name}: {task.hub} is neither cached nor reachable ({type(error).__name__}; no network?). "
            f"Set task.data_dir=DIR to a folder with {split}.jsonl and the other splits."
        ) from error
    return dataset.select(range(min(limit or len(dataset), len(dataset)))).to_list()


def _check_row(task: TaskSettings, row: Row, where: str) -> None:
    needed = [*task.text_columns, "label"]
    for column in needed:
        if column not in row:
            raise UserError(
                f"{where}: column '{column}' is missing (found: {', '.join(row)}). "
                f"task={task.name} reads {', '.join(needed)}."
            )
    for column in task.text_columns:
        if not isinstance(row[column], str) or _LONE_SURROGATE.search(row[column]):
            raise UserError(f"{where}: column '{column}' is {row[column]!r}, expected text.")
    _check_label(task, row["label"], where)


def _check_label(task: TaskSettings, label: Any, where: str) -> None:
    if task.classes:
        fits = type(label) is int and 0 <= label < len(task.classes)
    else:
        fits = type(label) in (int, float) and abs(label) < _LARGEST_LABEL  # false for NaN
    if fits:
        return
    expected = ", ".join(f"{i} = {name}" for i, name in enumerate(task.classes)) or "a number"
    raise UserError(f"{where}: label {label!r} is outside the set of task={task.name}; expected {expected}.")
