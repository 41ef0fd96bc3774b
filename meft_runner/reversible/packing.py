"""Small non-negative integers, packed to exactly the bits they need."""

import torch
from torch import Tensor

_LARGEST_COUNT = 256
_GROUP = 8  # eight values of k bits fill k whole bytes, whatever k is


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

    The last dimension is laid out as eight planes; value i of every plane shares one group of k bytes, so
    each pass reads and writes contiguous memory. Bytes are taken in little-endian order.

    Args:
        values: integer tensor, (..., H).
        count: number of different values, 2 to 256.

    Returns:
        uint8 tensor, (..., ceil(H / 8) * bits_needed(count)); any slice of the leading dimensions can be
        unpacked by itself.
    """
    bits = bits_needed(count)
    groups = -(-values.shape[-1] // _GROUP)
    if values.shape[-1] != groups * _GROUP:
        values = torch.nn.functional.pad(values, (0, groups * _GROUP - values.shape[-1]))
    words = torch.zeros(*values.shape[:-1], groups, dtype=torch.int64, device=values.device)
    for plane in range(_GROUP):
        words |= values[..., plane * groups : (plane + 1) * groups].to(torch.int64) << (bits * plane)
    as_bytes = words.view(torch.uint8).view(*words.shape, _GROUP)
    return as_bytes[..., :bits].flatten(-2).contiguous()


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
    groups = -(-size // _GROUP)
    words = torch.zeros(*packed.shape[:-1], groups, _GROUP, dtype=torch.uint8, device=packed.device)
    words[..., :bits] = packed.view(*packed.shape[:-1], groups, bits)
    whole = words.view(torch.int64).squeeze(-1)
    mask = (1 << bits) - 1
    values = torch.empty(*packed.shape[:-1], _GROUP * groups, dtype=torch.int32, device=packed.device)
    for plane in range(_GROUP):
        values[..., plane * groups : (plane + 1) * groups] = (whole >> (bits * plane)) & mask
    return values[..., :size]
