"""Integers divided by a small one: quotients rounded down, and remainders packed to exactly the bits they need."""

import torch
from torch import Tensor

_LARGEST_COUNT = 256
_GROUP = 8  # eight values of k bits fill k whole bytes, whatever k is
_BLOCK = 2**16  # elements that are divided at once


def floor_divide(values: Tensor, count: int) -> Tensor:
    """Returns values / count rounded down, of int32 integers.

    On a CPU integers are divided one by one, ten times slower than floating point. In float64 the quotient is as
    exact: one that is no integer is at least 1 / count away from the next, and rounding moves it by 2^-23 at the most.
    """
    if count & (count - 1) == 0:
        return values >> (count.bit_length() - 1)
    if values.is_cuda:
        return torch.div(values, count, rounding_mode="floor")
    quotients = torch.empty_like(values)
    for part, result in zip(values.view(-1).split(_BLOCK), quotients.view(-1).split(_BLOCK), strict=True):
        result.copy_(part.double().div_(count).floor_())
    return quotients


def bits_needed(count: int) -> int:
    """Returns how many bits hold any of the values 0 .. count - 1.

    Raises:
        ValueError: `count` is outside 2 .. 256.
    """
    if not 2 <= count <= _LARGEST_COUNT:
        raise ValueError(f"values below 2 to {_LARGEST_COUNT} can be packed, not below {count}")
    return (count - 1).bit_length()


def pack(values: Tensor, count: int) -> Tensor:
    """Packs integers 0 <= value < count along the last dimension.

    The last dimension is laid out as planes; value i of every plane shares one word, so each pass reads and writes
    contiguous memory. A word is one byte where a whole number of values fills it, else eight values in the first
    bytes of eight, in little-endian order.

    Args:
        values: integer tensor, (..., H).
        count: number of different values, 2 to 256.

    Returns:
        uint8 tensor, (..., words * bytes of a word); any slice of the leading dimensions can be unpacked by itself.
    """
    bits = bits_needed(count)
    planes, word = _words(bits)
    size = -(-values.shape[-1] // planes)
    if values.shape[-1] != size * planes:
        values = torch.nn.functional.pad(values, (0, size * planes - values.shape[-1]))
    first, *others = values.split(size, dim=-1)
    words = first.to(word)
    for plane, each in enumerate(others, start=1):
        words |= each.to(word) << (bits * plane)
    if word is torch.uint8:
        return words
    return words.view(torch.uint8).view(*words.shape, _GROUP)[..., :bits].flatten(-2).contiguous()


def unpack(packed: Tensor, count: int, size: int) -> Tensor:
    """Undoes `pack`.

    Args:
        packed: what `pack` returned, or a slice of its leading dimensions.
        count: the same count.
        size: H, the last dimension of the packed tensor.

    Returns:
        int32 tensor, (..., H).
    """
    bits = bits_needed(count)
    planes, word = _words(bits)
    words = packed if word is torch.uint8 else _whole_words(packed, bits)
    if planes == 1:
        return words.to(torch.int32)
    values = torch.empty(*packed.shape[:-1], planes, words.shape[-1], dtype=torch.int32, device=packed.device)
    for plane, each in enumerate(values.unbind(-2)):
        each.copy_((words >> (bits * plane)) & ((1 << bits) - 1))
    return values.flatten(-2)[..., :size]


def _words(bits: int) -> tuple[int, torch.dtype]:
    """Returns how many values of so many bits share a word, and its type."""
    return (8 // bits, torch.uint8) if 8 % bits == 0 else (_GROUP, torch.int64)


def _whole_words(packed: Tensor, bits: int) -> Tensor:
    """Returns words of eight bytes from their first ones."""
    groups = packed.shape[-1] // bits
    words = torch.zeros(*packed.shape[:-1], groups, _GROUP, dtype=torch.uint8, device=packed.device)
    words[..., :bits] = packed.view(*packed.shape[:-1], groups, bits)
    return words.view(torch.int64).squeeze(-1)
