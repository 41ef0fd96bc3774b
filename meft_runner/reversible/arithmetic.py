"""The exact arithmetic of one half in torch's operations, bit for bit that of `fused_gpu.py` and `fused_cpu.py`.

Forward: J = I div n + q(mu * increment), with q(t) = round(t * 2^bits), halves to even, and div rounding down.
Backward: I = (J - q(mu * increment)) * n + I mod n.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from meft_runner.reversible.packing import floor_divide, pack, unpack


class Advanced(NamedTuple):
    """What the addition of an increment to an integer stream leaves.

    Attributes:
        result: J, a stream like I.
        kept: I mod n, packed; None for n = 1.
        ends: two scalars, the smallest and the largest value of the increment, or its largest magnitude twice; NaN if
            any of it is.
        value: J in floating point, where it came with the result.
        checksum: int32 scalar, that of I, where it came with the result.
    """

    result: Any
    kept: Tensor | None
    ends: tuple[Tensor, Tensor]
    value: Tensor | None = None
    checksum: Tensor | None = None


def wide(dtype: torch.dtype) -> torch.dtype:
    """Returns float32, or float64 for float64: the dtype in which grid units are counted for one."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def quantise(values: Tensor, factor: float) -> Tensor:
    """Returns values * factor rounded to int32, halves to even."""
    converted = values.to(wide(values.dtype))
    scaled = (converted.mul(factor) if converted is values else converted.mul_(factor)).round_()
    if scaled.dtype != torch.float32:
        return scaled.to(torch.int32)
    return scaled.view(torch.int32).copy_(scaled)  # each integer takes the place of its float


def advance(
    stream: Tensor, increment: Tensor, count: int, mu: float, bits: int, value_dtype: torch.dtype | None = None
) -> Advanced:
    """Adds an increment to a stream.

    Args:
        stream: I, int32, (..., H).
        increment: floating point, of the same shape.
        count: n, 1 to 256.
        mu: the increment's factor.
        bits: the grid's step is 2^-bits.
        value_dtype: in which J is wanted in floating point too, if that costs nothing; here it would.
    """
    if count == 1:
        return Advanced(quantise(increment, mu * 2.0**bits).add_(stream), None, ends(increment))
    quotient = floor_divide(stream, count)
    kept = pack(torch.sub(stream, quotient, alpha=count), count)
    return Advanced(quotient.add_(quantise(increment, mu * 2.0**bits)), kept, ends(increment))


def revert_(stream: Tensor, increment: Tensor, kept: Tensor | None, count: int, mu: float, bits: int) -> Tensor:
    """Turns a stream, or some of its tokens, into what `advance` was given, bit for bit, in place.

    Returns:
        The checksum of what came back.
    """
    stream.sub_(quantise(increment, mu * 2.0**bits))
    if kept is not None:
        torch.add(unpack(kept, count, stream.shape[-1]), stream, alpha=count, out=stream)
    return checksum(stream)


def ends(values: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the smallest and the largest value, both NaN if any is; 0 where there are no values."""
    if values.numel() == 0:
        zero = values.new_zeros(())
        return zero, zero
    low, high = torch.aminmax(values)
    return low, high


def checksum(stream: Tensor) -> Tensor:
    """Returns an int32 scalar that changes with (almost) any change of an int32 stream.

    It is the sum of x + x^2 modulo 2^32, which a change up here and down there leaves alone only by chance. That of a
    stream is the sum of those of its parts.
    """
    return torch.addcmul(stream, stream, stream).sum(dtype=torch.int32)
