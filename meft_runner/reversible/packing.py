"""Integers divided by a small one: quotients rounded down, and remainders packed to 1, 2, 4 or 8 bits each.

The last dimension is laid out as planes, its first part, its second part and so on; value i of every plane shares
byte i. So each operation reads and writes contiguous memory, and any slice of the leading dimensions can be unpacked by
itself. Bits that fill no byte evenly are rounded up: eight values in five bytes would take twice as long to pack.
"""

import torch
from torch import Tensor

_LARGEST_COUNT = 256
_BLOCK = 2**19  # elements that are divided at once


def floor_divide(values: Tensor, count: int) -> Tensor:
    """Returns values / count rounded down, of contiguous int32 integers.

    On a CPU integers are divided one by one, several times slower than floating point. In float64 the quotient is as
    exact: one that is no integer is at least 1 / count away from the next, and rounding moves it by 2^-23 at the most.
    A GPU, whose float64 may run at 1/64 of float32, divides integers by a multiplication.
    """
    if count & (count - 1) == 0:
        return values >> (count.bit_length() - 1)
    if values.is_cuda:
        return torch.div(values, count, rounding_mode="floor")
    if values.numel() <= _BLOCK:
        return values.double().div_(count).floor_().to(torch.int32)
    quotients = torch.empty_like(values)
    for part, result in zip(values.view(-1).split(_BLOCK), quotients.view(-1).split(_BLOCK), strict=True):
        result.copy_(floor_divide(part, count))
    return quotients


def packed_bits(count: int) -> int:
    """Returns in how many bits one of the values 0 .. count - 1 is packed: 1, 2, 4 or 8.

    Raises:
        ValueError: `count` is outside 2 .. 256.
    """
    if not 2 <= count <= _LARGEST_COUNT:
        raise ValueError(f"values below 2 to {_LARGEST_COUNT} can be packed, not below {count}")
    needed = (count - 1).bit_length()
    return 1 << (needed - 1).bit_length()


def pack(values: Tensor, count: int) -> Tensor:
    """Packs integers 0 <= value < count along the last dimension.

    Args:
        values: integer tensor, (..., H).
        count: number of different values, 2 to 256.

    Returns:
        uint8 tensor, (..., bytes), ceil(H * bits / 8) bytes for `packed_bits`.
    """
    bits = packed_bits(count)
    planes = 8 // bits
    size = -(-values.shape[-1] // planes)
    words = values.to(torch.uint8)
    if planes == 1:
        return words
    if words.shape[-1] != size * planes:
        words = torch.nn.functional.pad(words, (0, size * planes - words.shape[-1]))
    packed, *others = words.split(size, dim=-1)
    for plane, each in enumerate(others, start=1):
        packed = torch.add(packed, each, alpha=1 << (bits * plane))  # no bit is in both: a sum is a union
    return packed


def unpack(packed: Tensor, count: int, size: int) -> Tensor:
    """Undoes `pack`.

    Args:
        packed: what `pack` returned, or a slice of its leading dimensions.
        count: the same count.
        size: H, the last dimension of the packed tensor.

    Returns:
        uint8 tensor, (..., H).
    """
    bits = packed_bits(count)
    if bits == 8:
        return packed
    shifted = [packed] + [packed >> shift for shift in range(bits, 8, bits)]
    planes = [plane & ((1 << bits) - 1) for plane in shifted[:-1]] + shifted[-1:]
    values = torch.cat(planes, dim=-1)
    return values if values.shape[-1] == size else values[..., :size]
