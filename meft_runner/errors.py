"""The one kind of error that is the user's to mend, and how it is worded."""

import difflib
from collections.abc import Iterable, Sequence

_SHOWN_NAMES = 8


class UserError(Exception):
    """A mistake in what the user asked for or provided; printed without a traceback, exit code 2.

    Its message names the key, the value, what was expected and the fix, in one or two lines.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns a hint such as "did you mean 'bert'? " or an empty string where nothing is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean '{matches[0]}'? " if matches else ""


def listed(names: Sequence[str]) -> str:
    """Returns the first names of a list, as many as a message has room for."""
    return ", ".join(names[:_SHOWN_NAMES]) + (", ..." if len(names) > _SHOWN_NAMES else "")
