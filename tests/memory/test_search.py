"""The largest size that a budget holds, found with few predictions."""

from hypothesis import given
from hypothesis import strategies as st

from meft_runner.memory.search import largest


@given(
    first=st.integers(0, 10**6), slope=st.integers(1, 10**5), bend=st.integers(0, 100), top=st.integers(2, 600),
    answer=st.integers(1, 700),
)  # fmt: skip
def test_the_largest_size_that_fits(first, slope, bend, top, answer):
    asked = []

    def peak(size):
        asked.append(size)
        return first + slope * size + bend * size**2

    found = largest(peak, first + slope * answer + bend * answer**2, limit=top)
    assert found == ((answer, "predicted") if answer < top else (top, "limit"))
    assert len(asked) <= 22  # two to begin with, and twice as many as halving alone would take
    assert max(asked) <= top


def test_memory_that_grows_evenly_takes_a_few_predictions():
    asked = []
    assert largest(lambda size: asked.append(size) or 50 + 7 * size, 50 + 7 * 300, limit=4096) == (300, "predicted")
    assert len(asked) <= 6


def test_beyond_what_is_predicted_the_line_is_followed():
    assert largest(lambda size: 100 + 7 * size, 100 + 7 * 1000, known=64) == (1000, "extrapolated")
    assert largest(lambda size: 100 + 7 * size, 50, known=64) == (0, "predicted")
