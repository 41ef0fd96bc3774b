"""What is known of a setting beside its type and default: it stands with the setting itself."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any, TypeVar

_T = TypeVar("_T")
COUNT = (1, 10**9)  # the range of rows, steps and other things that are counted


@dataclass(frozen=True)
class Notes:
    """What is known of a setting.

    Attributes:
        within: smallest and largest value; of each element where the setting is a list.
    """

    within: tuple[float, float] | None = None


def setting(default: _T, within: tuple[float, float] | None = None) -> _T:
    """Declares a field of a settings class, as `dataclasses.field` does, with what is known of it.

    Args:
        default: its value unless set; lists and dictionaries are copied.
        within: smallest and largest value.

    Returns:
        A dataclass field; the declared type is the default's, since that is what the field will hold.
    """
    metadata = {"notes": Notes(within)}
    made: Any = (
        field(default_factory=partial(deepcopy, default), metadata=metadata)
        if isinstance(default, list | dict)
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
            yield f"{prefix}{each.name}", value, notes_of(each.metadata)


def notes_of(metadata: Mapping[str, Any]) -> Notes:
    """Returns the notes of a field's metadata, empty ones where it has none."""
    return metadata.get("notes", Notes())
