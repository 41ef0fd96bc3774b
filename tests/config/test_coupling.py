"""Scales and mu as they are written."""

from fractions import Fraction

import pytest

from meft_runner.config.coupling import fraction_of, parse_scale
from meft_runner.errors import UserError


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("1/256", Fraction(1, 256)),
        (" 1 / 10", Fraction(1, 10)),
        ("2.5E-3", Fraction(1, 400)),
        ("1e300", Fraction(10**300)),
        (0.5, Fraction(1, 2)),
        ("1e5000", None),  # which no text can be made of
        ("1e-999999999", None),  # which takes all memory
        ("9" * 41, None),
        ("1/0", None),
        ("nan", None),
        (float("inf"), None),
        (None, None),
    ],
)
def test_numbers_that_may_be_written(value, number):
    assert fraction_of(value) == number


def test_a_scale_with_too_many_digits_is_told():
    with pytest.raises(UserError, match=r"method\.scale_1=1e-9{9}: expected a number above 0, written as 1/10"):
        parse_scale("method.scale_1", "1e-999999999")
