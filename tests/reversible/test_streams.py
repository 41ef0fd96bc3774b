from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meft_runner.reversible.coupling import Weights
from meft_runner.reversible.streams import ExactStreams, make_streams


@given(
    n=st.integers(1, 256),
    bits=st.integers(4, 24),
    magnitude=st.floats(1e-3, 50.0),
    mu=st.floats(1e-3, 10.0),
    seed=st.integers(0, 2**31),
)
def test_exact_revert_undoes_advance(n, bits, magnitude, mu, seed):
    streams, weights = ExactStreams(bits), Weights(Fraction(1, n), mu)
    generator = torch.Generator().manual_seed(seed)
    start, _ = streams.start(torch.randn(3, 5, 7, generator=generator) * magnitude)
    increment = torch.randn(3, 5, 7, generator=generator) * magnitude
    advanced, kept = streams.advance(start, weights, increment, None)[:2]
    streams.revert_(advanced, weights, increment, kept)
    assert torch.equal(advanced, start)
    assert (kept is None) == (n == 1)


@given(n=st.integers(1, 256), mu=st.floats(0.01, 2), x=st.floats(-100, 100), t=st.floats(-100, 100))
def test_exact_advance_is_the_formula_up_to_the_grid(n, mu, x, t):
    streams = ExactStreams(16)
    start, _ = streams.start(torch.tensor([x]))
    advanced = streams.advance(start, Weights(Fraction(1, n), mu), torch.tensor([t]), None).result
    assert streams.value(advanced, torch.float64).item() == pytest.approx(x / n + mu * t, abs=2.0**-14)


def test_value_keeps_the_dtype_and_double_precision():
    streams = ExactStreams(16)
    integers = torch.tensor([2**30 + 1], dtype=torch.int32)
    assert streams.value(integers, torch.bfloat16).dtype == torch.bfloat16
    assert streams.value(integers, torch.float64).item() == (2**30 + 1) / 2**16


@pytest.mark.parametrize(
    ("mode", "scale", "message"),
    [
        ("exact", "3/10", "unit fraction"),
        ("stored", "2", "unit fraction"),
        ("exact", "1/257", "257"),
        ("float", "0", "0"),
    ],
)
def test_scales_that_cannot_be_inverted_are_refused(mode, scale, message):
    with pytest.raises(ValueError, match=message):
        make_streams(mode, (Fraction(1), Fraction(scale)), 16)


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="exact, float, stored"):
        make_streams("fast", (Fraction(1), Fraction(1)), 16)
