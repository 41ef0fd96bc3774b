"""Amounts of memory as they are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meft_runner.config.sizes import parse_bytes, written_bytes
from meft_runner.errors import UserError


@pytest.mark.parametrize(("text", "count"), [("24GiB", 24 * 2**30), ("1.5MiB", 3 * 2**19), ("24 GB", 24 * 10**9)])
def test_amounts(text, count):
    assert parse_bytes("fit", text) == count


@pytest.mark.parametrize("text", ["8", "8gib", "GiB", "-8GiB", "0GiB", "0.1KB ", "8 PiB", "9" * 20 + "GiB", ""])
def test_what_is_none_is_named(text):
    with pytest.raises(UserError, match=r"^method\.budget=.*: expected a number with a unit, as in 24GiB"):
        parse_bytes("method.budget", text)


@given(st.integers(1, 2**50))
def test_what_is_written_holds_what_it_stands_for(count):
    assert count <= parse_bytes("fit", written_bytes(count)) <= max(1.1 * count, 2**20)


@pytest.mark.parametrize(
    ("count", "text"), [(2**30, "1GiB"), (2**30 + 1, "1.1GiB"), (3 * 2**19, "1.5MiB"), (1, "0.1MiB")]
)
def test_amounts_are_written(count, text):
    assert written_bytes(count) == text
