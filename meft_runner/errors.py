"""The one kind of error that is the user's to mend, and how it is worded."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SHOWN_NAMES = 8


class UserError(Exception):
    """A mistake in what the user asked for or provided; printed without a traceback, exit code 2.

    Its message names the key, the value, what was expected and the fix, in one or two lines.
    """


@contextmanager
def writing(what: str, output_dir: Path, errors: tuple[type[Exception], ...] = (OSError,)) -> Iterator[None]:
    """Explains what goes wrong inside as something that cannot be written to the folder of the runs.

    Raises:
        UserError: one of the errors came.
    """
    try:
        yield
    except errors as error:
        raise UserError(
            f"output_dir={output_dir}: {what} cannot be written there ({reason_of(error)}). "
            "Free space, or choose another folder."
        ) from error


def first_line(error: BaseException) -> str:
    """Returns what an error says first, without a full stop; its type where it says nothing."""
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def reason_of(error: BaseException) -> str:
    """Returns why something failed: what the system says of a file, else what the error says first."""
    return getattr(error, "strerror", None) or first_line(error)


def in_brief(error: BaseException) -> str:
    """Returns an error's type and the first line of what it says."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns a hint such as "did you mean 'bert'? " or an empty string where nothing is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean '{matches[0]}'? " if matches else ""


def one_of(known: Mapping[str, Any], key: str, value: Any) -> Any:
    """Returns what a word stands for.

    Raises:
        UserError: it is none of those that are known.
    """
    if not isinstance(value, str) or value not in known:
        raise UserError(f"{key}={value}: {nearest(str(value), known)}expected {' or '.join(known)}.")
    return known[value]


def printable(text: str) -> str:
    """Returns a text with a question mark for each character that a terminal might obey."""
    return "".join(character if character.isprintable() else "?" for character in text)


def listed(names: Sequence[str]) -> str:
    """Returns the first names of a list, as many as a message has room for, without what a terminal would obey."""
    shown = ", ".join(names[:_SHOWN_NAMES])
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    return shown + (", ..." if len(names) > _SHOWN_NAMES else "")
