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
    """Packs integers 0 <= value < count.

    The values are laid out as eight planes; value i of every plane shares one group of k bytes, so
    each pass reads and writes contiguous memory. Bytes are taken in little-endian order.

    Args:
        values: integer tensor of any shape, N elements.
        count: number of different values, 2 to 256.

    Returns:
        uint8 tensor of ceil(N / 8) * bits_needed(count) bytes.
    """
    bits = bits_needed(count)
    flat = values.reshape(-1)
    groups = -(-flat.numel() // _GROUP)
    if flat.numel() != groups * _GROUP:
        flat = torch.nn.functional.pad(flat, (0, groups * _GROUP - flat.numel()))
    words = torch.zeros(groups, dtype=torch.int64, device=flat.device)
    for plane, part in enumerate(flat.view(_GROUP, groups)):
        words |= part.to(torch.int64) << (bits * plane)
    return words.view(torch.uint8).view(groups, _GROUP)[:, :bits].contiguous()


def unpack(packed: Tensor, count: int, shape: torch.Size) -> Tensor:
    """Undoes `pack`.

    Args:
        packed: what `pack` returned.
        count: the same count.
        shape: shape of the packed tensor.

    Returns:
        int32 tensor of that shape.
    """
    bits = bits_needed(count)
    groups = packed.shape[0]
    words = torch.zeros(groups, _GROUP, dtype=torch.uint8, device=packed.device)
    words[:, :bits] = packed
    words = words.view(torch.int64).view(-1)
    mask = (1 << bits) - 1
    values = torch.empty(_GROUP, groups, dtype=torch.int32, device=packed.device)
    for plane in range(_GROUP):
        values[plane] = (words >> (bits * plane)) & mask
    return values.view(-1)[: shape.numel()].view(shape)
