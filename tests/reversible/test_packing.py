import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meft_runner.reversible.packing import bits_needed, pack, unpack


@given(count=st.integers(2, 256), size=st.integers(1, 40), rows=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_unpack_undoes_pack(count, size, rows, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, count, (rows, 2, size), generator=generator, dtype=torch.int32)
    values[0, 0, 0], values[-1, -1, -1] = 0, count - 1
    packed = pack(values, count)
    assert torch.equal(unpack(packed, count, size), values)
    assert torch.equal(unpack(packed[1:], count, size), values[1:])  # a slice by itself


@pytest.mark.parametrize(("count", "bits"), [(2, 1), (3, 2), (5, 3), (10, 4), (16, 4), (17, 5), (256, 8)])
def test_packed_size_is_the_bits_that_are_needed(count, bits):
    assert bits_needed(count) == bits
    assert pack(torch.zeros(2, 80, dtype=torch.int32), count).nbytes == 160 * bits // 8


@pytest.mark.parametrize("count", [1, 257])
def test_counts_outside_the_range_are_refused(count):
    with pytest.raises(ValueError, match="packed"):
        bits_needed(count)
