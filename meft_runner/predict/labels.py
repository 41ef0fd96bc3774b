"""The labels of new rows, which may be missing: names of classes, their numbers, or grades."""

import math
import re
from collections.abc import Sequence
from typing import Any

from meft_runner.errors import UserError, listed

_WHOLE = re.compile(r"-?[0-9]+")
_DIGITS = 18  # longer ones are no number of a class; thousands of digits Python does not read


def known_label(label: Any, classes: Sequence[str], where: str, numbered: bool = True) -> int | float | None:
    """Returns the number of a class, or a grade where there are no classes; None where a row has none.

    Args:
        label: as the row has it: a class by its name or number, or a grade. -1 hides a class, as in the hub's test
            sets, where it names none.
        classes: class names in label order.
        where: the row's place.
        numbered: whether labels may be as the hub has them: numbers that count classes from 0, unless some class has a
            whole number for its name, and -1 where a grade is hidden.

    Raises:
        UserError: it is none of these.
    """
    if label is None or label == "":
        return None
    if not classes:
        grade = _grade(label, where)
        return None if numbered and grade == -1 else grade
    if str(label) in classes:
        return list(classes).index(str(label))
    written = isinstance(label, str) and len(label) <= _DIGITS and _WHOLE.fullmatch(label) is not None
    whole = type(label) is int or written
    number = int(label) if whole else -2
    if number == -1:
        return None
    numbered = numbered and not any(map(_WHOLE.fullmatch, classes))  # names and counting would mix
    if numbered and 0 <= number < len(classes):
        return number
    numbers = f", or their numbers 0 to {len(classes) - 1}" if numbered else ""
    raise UserError(
        f"{where}: label {label!r:.40} is none of the run's classes, expected {listed(list(classes)):.100}{numbers}. "
        "Mend it, or leave the label out."
    )


def _grade(label: Any, where: str) -> float:
    try:
        grade = math.nan if isinstance(label, bool) else float(label)
    except (TypeError, ValueError, OverflowError):
        grade = math.nan
    if not math.isfinite(grade):
        raise UserError(f"{where}: label {label!r:.40}, expected a number as its grade. Mend it, or leave it out.")
    return grade
