"""What is known of a setting beside its type and default: it stands with the setting itself."""

import os
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import Field, dataclass, field, fields, is_dataclass
from enum import Enum
from functools import partial
from typing import Any, TypeVar

from meft_runner.errors import UserError

_T = TypeVar("_T")
COUNT = (1, 10**9)  # the range of rows, steps and other things that are counted


@dataclass(frozen=True)
class Notes:
    """What is known of a setting.

    Attributes:
        within: smallest and largest value; of each element where the setting is a list.
        only: the setting has an effect only where each of these other settings has one of these values, written as
            they are typed; None for one that is not set.
        fixed: it says what the name of its group stands for, so it cannot be set; this sentence says what to do.
        beside: it does not change a run's result, or its effect is part of another setting.
        path: it is a file or folder.
        later: it came later; at its default a run is what it was before, and keeps its identity.
        words: the values there are, where no one type has them all.
        named: values of a path that name something else than a file.
        default: its default.
    """

    within: tuple[float, float] | None = None
    only: Mapping[str, tuple[str | bool | None, ...]] = field(default_factory=dict)
    fixed: str | None = None
    beside: bool = False
    path: bool = False
    later: bool = False
    words: tuple[bool | str, ...] | None = None
    named: tuple[str, ...] = ()
    default: Any = None

    def is_path(self, value: Any) -> bool:
        """Tells whether a value of the setting is the path of a file or folder."""
        return self.path and value is not None and value not in self.named


def setting(
    default: _T,
    within: tuple[float, float] | None = None,
    only: Mapping[str, tuple[str | bool | None, ...]] | None = None,
    fixed: str | None = None,
    beside: bool = False,
    path: bool = False,
    later: bool = False,
    words: tuple[bool | str, ...] | None = None,
    named: tuple[str, ...] = (),
) -> _T:
    """Declares a field of a settings class, as `dataclasses.field` does, with its `Notes`.

    The declared type is the default's, since that is what the field will hold. Lists, dictionaries and settings are
    copied.
    """
    metadata = {"notes": Notes(within, only or {}, fixed, beside, path, later, words, named, default)}
    made: Any = (
        field(default_factory=partial(deepcopy, default), metadata=metadata)
        if isinstance(default, list | dict) or is_dataclass(default)
        else field(default=default, metadata=metadata)
    )
    return made


def settings_of(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, Notes]]:
    """Yields key, value and notes of each setting, those of the groups with a dot: `method.rank`."""
    for each in fields(section):
        value = getattr(section, each.name)
        if is_dataclass(value):
            yield from settings_of(value, f"{prefix}{each.name}.")
        else:
            yield f"{prefix}{each.name}", value, notes_of(each)


def notes_of(each: Field[Any]) -> Notes:
    """Returns what is known of a field, empty notes where nothing is."""
    return each.metadata.get("notes", Notes())


def hindrance(settings: Any, notes: Notes) -> str | None:
    """Returns the setting that leaves the one with these notes without effect, as it could be typed; None if none."""
    for key, values in notes.only.items():
        value = value_of(settings, key)
        if value not in values:
            return f"task={settings.task.name}" if key == "task.head" else f"{key}={as_typed(value)}"
    return None


def value_of(settings: Any, key: str) -> Any:
    """Returns the value of a setting, `seed` or `method.rank`, as records have it."""
    group, _, name = key.rpartition(".")
    return as_recorded(getattr(getattr(settings, group) if group else settings, name))


def as_recorded(value: Any) -> Any:
    """Returns a value as records have it: a choice by its name."""
    return value.name if isinstance(value, Enum) else value


def as_typed(value: Any) -> str:
    """Returns a value as it is typed."""
    value = as_recorded(value)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def expanded(key: str, path: str) -> str:
    """Returns a path with the home folder in place of its ~.

    Raises:
        UserError: there is no such home folder.
    """
    found = os.path.expanduser(path)
    if found.startswith("~"):
        raise UserError(f"{key}={path}: the system knows no such home folder. A folder of that name here is ./{path}.")
    return found
