"""Amounts of memory as they are written: 8GiB, 512MiB or 24GB."""

import re
from fractions import Fraction

from meft_runner.errors import UserError

_LARGEST = 2**60  # bytes


def parse_bytes(key: str, text: str) -> int:
    """Reads an amount of memory such as 24GiB, 512MiB or 24GB.

    Args:
        key: of the setting that has it.
        text: a number and a unit.

    Returns:
        The bytes.

    Raises:
        UserError: it has another form.
    """
    match = re.fullmatch(r"(\d{1,20}(?:\.\d{1,20})?)\s*([KMGT])(i?)B", text)
    count = match and int(Fraction(match[1]) * (1024 if match[3] else 1000) ** ("KMGT".index(match[2]) + 1))
    if not count or count > _LARGEST:
        raise UserError(f"{key}={text}: expected a number with a unit, as in 24GiB or 512MiB, up to 1048576TiB.")
    return count


def written_bytes(count: int) -> str:
    """Returns an amount of memory as it may be typed, with one place and no smaller than it is: 7.4GiB, 812.3MiB."""
    unit, size = ("GiB", 2**30) if count >= 2**30 else ("MiB", 2**20)
    whole, tenths = divmod(-(-10 * count // size), 10)
    return f"{whole}.{tenths}{unit}" if tenths else f"{whole}{unit}"
