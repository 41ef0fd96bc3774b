"""Whether the rows of a split are still those that a run was made from."""

from collections.abc import Sequence
from pathlib import Path

from meft_runner.config import SquadSettings, TaskSettings, TextSettings
from meft_runner.predict.labels import known_label
from meft_runner.predict.spans import is_known
from meft_runner.predict.trained import Trained
from meft_runner.tasks.data import Row
from meft_runner.tasks.description import fingerprint
from meft_runner.tasks.language_rows import Placed
from meft_runner.tasks.text import TEXTS

_PATHS = ("data_dir", "train_file", "eval_file")  # settings that name rows


def changed_rows(trained: Trained, split: str, rows: Sequence[Placed]) -> str | None:
    """Returns what there is to say of a split's rows that are not those of the run; None where they are.

    A split that the run has not read may hold anything.

    Args:
        trained: the run.
        split: its name.
        rows: as they are now.
    """
    then = trained.record.data.splits.get(split)
    if then is None:
        return None
    now = fingerprint_of(trained.settings.task, trained.classes, rows)
    if now == then.fingerprint:
        return None
    paths = [Path(path) for name in _PATHS if (path := getattr(trained.settings.task, name, None)) is not None]
    hint = "" if all(path.is_absolute() for path in paths) else f" (a relative path starts at {Path.cwd()})"
    change = f"fingerprint {then.fingerprint} then, {now} now"
    return (
        f"{rows[0].source} holds other rows than the run was made from ({change}), so scores are not its record's{hint}"
    )


def fingerprint_of(task: TaskSettings, classes: Sequence[str], rows: Sequence[Placed]) -> str:
    """Returns the fingerprint that a run's record would have of a split's rows.

    Args:
        task: that they are of.
        classes: class names in label order.
        rows: that have been found to fit the task.
    """
    if isinstance(task, TextSettings):
        return fingerprint(_described(task, classes, each) for each in rows)
    if isinstance(task, SquadSettings):  # others are refused or left out before training
        return fingerprint(each.row for each in rows if is_known(task, each.row))
    return fingerprint(each.row for each in rows)


def _described(task: TextSettings, classes: Sequence[str], placed: Placed) -> Row:
    """Returns a row of a user's own file as records know it, whatever its columns are called."""
    texts = {name: placed.row[column] for name, column in zip(TEXTS, task.text_columns, strict=False)}
    return texts | {"label": known_label(placed.row.get(task.label_column), classes, placed.where, numbered=False)}
