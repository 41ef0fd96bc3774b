"""The labels of a user's own files: names of classes, or grades.

Only plain decimal numbers are grades: Python would also take 1e5, 3_1 or nan for numbers, and who writes them in a
column of labels seldom means them so. Labels that are all whole numbers are classes.
"""

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from meft_runner.errors import UserError, listed

Label = str | int | float

_log = logging.getLogger(__name__)
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_WHOLE = re.compile(r"-?[0-9]+")
_LARGEST_GRADE = float(np.finfo(np.float32).max)  # models compute with 32 bits at the most
_MANY_CLASSES = 20  # above which a class for every other row is taken for a mistake


@dataclass(frozen=True)
class Given:
    """A label as a file has it.

    Attributes:
        label: text or a number.
        where: the file and the line or row.
    """

    label: Label
    where: str


def class_names(given: Sequence[Given], typed: bool) -> list[str]:
    """Returns the classes that labels name, whole numbers by size and other names by alphabet.

    Args:
        given: the labels of the training rows.
        typed: whether the file tells numbers from text; if not, all labels are text.

    Returns:
        Each class once; none where the labels are grades.

    Raises:
        UserError: most labels are numbers and some are not.
    """
    numbers = [is_number(one.label, typed) for one in given]
    if sum(numbers) > len(numbers) / 2 and not all(numbers):
        odd = given[numbers.index(False)]
        raise UserError(
            f"{odd.where}: label {odd.label!r:.40} is no plain number, as {sum(numbers)} of {len(numbers)} labels are. "
            "Mend or remove that row, or name all classes by words."
        )
    names = {str(one.label) for one in given}
    whole = all(_WHOLE.fullmatch(name) for name in names)
    if all(numbers) and not whole:
        if all(float(name).is_integer() for name in names):
            _log.warning(
                "all labels are grades such as %s: write them without a point if they name classes.", min(names)
            )
        return []
    if len(names) > max(_MANY_CLASSES, len(given) / 2):
        _log.warning(
            "%d rows have %d classes: is task.label_column right? Grades are written as in 1.5.", len(given), len(names)
        )
    return sorted(names, key=lambda name: (Decimal(name), name)) if whole else sorted(names)


def is_number(label: Label, typed: bool) -> bool:
    """Tells whether a label is a number: by its type, or as plain decimal text where a file has no types."""
    if typed:
        return isinstance(label, int | float) and not isinstance(label, bool)
    return _DECIMAL.fullmatch(str(label)) is not None


def numbered(given: Sequence[Given], classes: Sequence[str]) -> list[int | float]:
    """Returns labels as class numbers, or as grades where there are no classes.

    Raises:
        UserError: a label is none of the classes, or no number.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    return [_class_number(one, numbers) if classes else _grade(one) for one in given]


def _class_number(given: Given, numbers: dict[str, int]) -> int:
    name = str(given.label)
    if name not in numbers:
        raise UserError(
            f"{given.where}: label {given.label!r:.40} does not occur in training, where the classes are "
            f"{listed(list(numbers)):.100}. Mend or remove that row, or train with rows of that class."
        )
    return numbers[name]


def _grade(given: Given) -> float:
    label = given.label
    plain = is_number(label, typed=not isinstance(label, str))
    grade = float(str(label)) if plain else math.nan  # of its text: whole numbers can be too long for a float
    if not abs(grade) <= _LARGEST_GRADE:  # NaN is not
        raise UserError(
            f"{given.where}: label {label!r:.40}, expected a plain finite number such as 2.5 as its grade. "
            "Mend or remove that row."
        )
    return grade
