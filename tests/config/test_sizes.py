"""Amounts of memory as they are written."""

import pytest

from meft_runner.config.sizes import parse_bytes
from meft_runner.errors import UserError


@pytest.mark.parametrize(("text", "count"), [("24GiB", 24 * 2**30), ("1.5MiB", 3 * 2**19), ("24 GB", 24 * 10**9)])
def test_amounts(text, count):
    assert parse_bytes("fit", text) == count


@pytest.mark.parametrize("text", ["8", "8gib", "GiB", "-8GiB", "0GiB", "0.1KB ", "8 PiB", "9" * 20 + "GiB", ""])
def test_what_is_none_is_named(text):
    with pytest.raises(UserError, match=r"^method\.budget=.*: expected a number with a unit, as in 24GiB"):
        parse_bytes("method.budget", text)
