import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meft_runner.reversible.packing import floor_divide, pack, packed_bits, unpack


@given(count=st.integers(2, 256), size=st.integers(1, 40), rows=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_unpack_undoes_pack(count, size, rows, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, count, (rows, 2, size), generator=generator, dtype=torch.int32)
    values[0, 0, 0], values[-1, -1, -1] = 0, count - 1
    packed = pack(values, count)
    assert torch.equal(unpack(packed, count, size).int(), values)
    assert torch.equal(unpack(packed[1:], count, size).int(), values[1:])  # a slice by itself


@pytest.mark.parametrize(
    ("count", "bits"), [(2, 1), (3, 2), (4, 2), (5, 4), (10, 4), (16, 4), (17, 8), (100, 8), (256, 8)]
)
def test_packed_size_is_the_bits_that_are_needed_or_that_fill_bytes_evenly(count, bits):
    assert packed_bits(count) == bits
    assert pack(torch.zeros(2, 80, dtype=torch.int32), count).nbytes == 160 * bits // 8


@pytest.mark.parametrize("count", [1, 257])
def test_counts_outside_the_range_are_refused(count):
    with pytest.raises(ValueError, match="packed"):
        packed_bits(count)


@given(count=st.integers(1, 256), seed=st.integers(0, 2**31), size=st.sampled_from([1, 7, 2**16, 2**19 + 3]))
def test_quotients_are_those_of_whole_numbers(count, seed, size):
    """Against Python's own integers, around multiples and at both ends of the range, and torch's integer division."""
    generator = torch.Generator().manual_seed(seed)
    low, high = -(2**31), 2**31 - 1
    values = torch.randint(low, high + 1, (size,), generator=generator, dtype=torch.int64)
    near = (values[:5] // count * count).repeat(3) + torch.tensor([-1, 0, 1]).repeat_interleave(min(size, 5))
    values = torch.cat([values, near.clamp(low, high), torch.tensor([low, low + 1, -1, 0, 1, high - 1, high])])
    found = floor_divide(values.to(torch.int32), count)
    assert found.dtype == torch.int32
    assert torch.equal(found.long(), torch.div(values, count, rounding_mode="floor"))
    edges = values[size:].tolist()
    assert found[size:].tolist() == [value // count for value in edges]


@pytest.mark.parametrize("count", range(1, 257))
def test_quotients_next_to_the_largest_multiples(count):
    """Where float64 is coarsest beside its distance to the next integer."""
    for multiple in (2**31 // count * count, -(2**31) // count * count, 2**30 // count * count):
        values = [v for v in range(multiple - 2 * count, multiple + 2 * count + 1) if -(2**31) <= v < 2**31]
        assert floor_divide(torch.tensor(values, dtype=torch.int32), count).tolist() == [v // count for v in values]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_bytes_hold_a_value_of_every_plane(bits):
    """Against the integers of Python: part i of the row stands in bits i * bits and following."""
    values = torch.randint(0, 2**bits, (80,), generator=torch.Generator().manual_seed(bits), dtype=torch.int32)
    planes = values.view(8 // bits, -1).tolist()
    words = [sum(value << bits * place for place, value in enumerate(column)) for column in zip(*planes, strict=True)]
    assert pack(values, 2**bits).tolist() == words


def test_a_packed_byte_is_the_value():
    values = torch.arange(256, dtype=torch.int32).view(2, 128)
    assert torch.equal(pack(values, 256), values.to(torch.uint8))


def test_two_packed_values_share_a_byte():
    assert pack(torch.tensor([1, 2, 3, 10, 11, 12], dtype=torch.int32), 16).tolist() == [0xA1, 0xB2, 0xC3]
