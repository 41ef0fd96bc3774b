"""Scale and mu of a coupling as they are written: 1/256 or 0.1, and a number or 1-scale."""

import re
import sys
from fractions import Fraction
from typing import Any

from meft_runner.errors import UserError

KEEPS_MEAN = "1-scale"  # the mu with which a stream's next state is a weighted mean
LEARNED = "learned"
_LARGEST_MU = 100
_SHORT = re.compile(r"[^e]{1,40}(e[+-]?\d{1,3})?", re.IGNORECASE)  # a number with more digits takes minutes
Half = tuple[Fraction, float]  # scale and mu of what is added to a stream


def parse_half(key: str, scale_text: str, mu_text: str) -> Half:
    """Reads the scale of a half and its mu, which is 1 where the stream goes on whole.

    Args:
        key: of the scale.
        scale_text: such as 1/10 or 0.1.
        mu_text: a number, or `1-scale`.

    Raises:
        UserError: one of them is no number above 0.
    """
    scale, keeps_mean = parse_scale(key, scale_text), mu_text.replace(" ", "") == KEEPS_MEAN
    mu = 1 - scale if keeps_mean else fraction_of(mu_text) or Fraction(0)
    if scale == 1 and (keeps_mean or mu > 0):
        return scale, 1.0
    if not 0 < mu <= _LARGEST_MU:
        where = f" with {key}={scale_text}" if keeps_mean else ""
        raise UserError(
            f"method.mu={mu_text}{where}: expected a number above 0, at most {_LARGEST_MU}, as 255/256 or 0.99, "
            f"or {KEEPS_MEAN} where scales are below 1."
        )
    return scale, float(mu)


def parse_scale(key: str, text: str) -> Fraction:
    """Reads a scale such as "1/10" or "0.1".

    Raises:
        UserError: it is no number above 0.
    """
    scale = fraction_of(text)
    if scale is None or scale <= 0:
        raise UserError(f"{key}={text}: expected a number above 0, written as 1/10 or 0.1.")
    return scale


def parse_merge(merge: Any) -> tuple[float, float] | None:
    """Reads the weights of the two streams after the last block, None where they are learned.

    Raises:
        UserError: they are not two numbers, or both are zero.
    """
    if merge == LEARNED:
        return None
    if not (isinstance(merge, list) and len(merge) == 2 and all(map(_is_weight, merge)) and any(merge)):
        raise UserError(
            f"method.merge={merge}: expected two weights, not both 0, for instance [0.5,0.5], or {LEARNED}."
        )
    return float(merge[0]), float(merge[1])


def _is_weight(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def fraction_of(value: Any) -> Fraction | None:
    """Returns a number, written as a fraction or decimal one or not; None for what is none, or has too many digits."""
    written = value.replace(" ", "") if isinstance(value, str) else value
    if isinstance(written, str) and not _SHORT.fullmatch(written):
        return None
    try:
        return Fraction(written)
    except (ValueError, TypeError, ArithmeticError):
        return None
