"""The exact arithmetic of one half as a single Triton kernel, bit for bit that of `arithmetic.py`.

Tensors are rows of H elements. A program works on some rows and some of their packed bytes; the elements of a byte, one
in each of its planes, lie `words` apart (see `packing.py`). Largest magnitude and checksum are gathered by integer
maxima and sums, so that the order in which programs finish leaves no trace.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from meft_runner.reversible.arithmetic import Advanced
from meft_runner.reversible.kernels import check_remainders, checked
from meft_runner.reversible.packing import packed_bits

_TILE = 2048  # bytes of remainders that one program makes, at the most
# A product and a sum round one after the other, as they do in torch.
_OPTIONS = {"num_warps": 8, "enable_fp_fusion": False}


def advance(
    stream: Tensor, increment: Tensor, count: int, mu: float, bits: int, value_dtype: torch.dtype | None = None
) -> Advanced:
    """Adds an increment to a stream, as `arithmetic.advance` does, with value and checksum from the same launch.

    Args:
        stream: contiguous int32, (..., H), not empty.
        increment: float32, bfloat16 or float16, of the same shape.
        count: n, 1 to 256.
        mu: the increment's factor.
        bits: the grid's step is 2^-bits.
        value_dtype: in which the result is wanted in floating point too; None for not at all.

    Raises:
        ValueError: the tensors do not go together.
    """
    increment = checked(stream, increment)
    tiles = _Tiles.of(stream, count)
    result = torch.empty_like(stream)
    value = None if value_dtype is None else torch.empty_like(stream, dtype=value_dtype)
    kept = None
    if count > 1:
        kept = torch.empty(*stream.shape[:-1], tiles.words, dtype=torch.uint8, device=stream.device)
    peak, checksum = _zeros(stream.device)
    with torch.cuda.device_of(stream):
        _advance[tiles.grid](
            stream, increment, result, kept, value, peak, checksum,
            tiles.rows, tiles.width, tiles.words, mu * 2.0**bits, 2.0**-bits,
            count, tiles.bits, *tiles.shape, **_OPTIONS,
        )  # fmt: skip
    return Advanced(result, kept, (peak, peak), value, checksum)


def revert_(stream: Tensor, increment: Tensor, kept: Tensor | None, count: int, mu: float, bits: int) -> Tensor:
    """Turns a stream, or some of its tokens, into what `advance` was given, bit for bit, in place.

    Returns:
        The checksum of what came back.

    Raises:
        ValueError: the tensors do not go together.
    """
    increment = checked(stream, increment)
    tiles = _Tiles.of(stream, count)
    check_remainders(kept, stream, tiles.words)
    _, checksum = _zeros(stream.device)
    with torch.cuda.device_of(stream):
        _revert[tiles.grid](
            stream, increment, kept, checksum, tiles.rows, tiles.width, tiles.words, mu * 2.0**bits,
            count, tiles.bits, *tiles.shape, **_OPTIONS,
        )  # fmt: skip
    return checksum


class _Tiles(NamedTuple):
    """How a tensor is shared among programs.

    Attributes:
        rows: how many rows of H elements there are.
        width: H.
        words: bytes of remainders in a row; H where each has its own.
        bits: of one remainder.
        shape: rows and bytes that a program works on.
    """

    rows: int
    width: int
    words: int
    bits: int
    shape: tuple[int, int]

    @classmethod
    def of(cls, stream: Tensor, count: int) -> "_Tiles":
        """Shares (..., H) among programs; those of a few wide rows work on a part of one."""
        width = stream.shape[-1]
        bits = 8 if count == 1 else packed_bits(count)
        words = -(-width * bits // 8)
        rows = stream.numel() // width
        block = min(_TILE, triton.next_power_of_2(words))
        return cls(rows, width, words, bits, (min(_TILE // block, triton.next_power_of_2(rows)), block))

    @property
    def grid(self) -> tuple[int, int]:
        """How many programs there are."""
        return triton.cdiv(self.rows, self.shape[0]), triton.cdiv(self.words, self.shape[1])


_ready: dict[tuple[torch.device, int], Iterator[tuple[Tensor, Tensor]]] = {}


def _zeros(device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns a float32 and an int32 scalar of 0, made many at a time: a launch takes as long as a small kernel."""
    queue = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    ready = _ready.get((device, queue), iter(()))
    pair = next(ready, None)
    if pair is None:
        with torch.inference_mode(False):  # whose tensors could not be saved for a backward pass that comes later
            peaks, checksums = (torch.zeros(128, dtype=dtype, device=device) for dtype in (torch.float32, torch.int32))
        ready = _ready[device, queue] = zip(peaks.unbind(), checksums.unbind(), strict=True)
        pair = next(ready)
    return pair


@triton.jit
def _quantised(increment: tl.tensor, factor: tl.tensor) -> tl.tensor:
    """Returns increment * factor as int32, halves rounded to even as `torch.round` does.

    Below 2^23 adding 2^23 leaves no bit for a fraction, so the sum is rounded as floating point is; from there on
    float32 has no fractions.
    """
    scaled = increment * factor
    size = tl.abs(scaled)
    size = tl.where(size < 8388608.0, (size + 8388608.0) - 8388608.0, size)
    return tl.where(scaled < 0, -size, size).to(tl.int32)


@triton.jit
def _divided(integers: tl.tensor, COUNT: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:  # noqa: N803
    """Returns quotient and remainder of int32 integers, rounded down, whichever way `//` rounds."""
    quotient = integers // COUNT
    remainder = integers - quotient * COUNT
    below = remainder < 0
    return tl.where(below, quotient - 1, quotient), tl.where(below, remainder + COUNT, remainder)


@triton.jit
def _store_value(pointers: tl.tensor, value: tl.tensor, mask: tl.tensor) -> None:
    """Stores float32 values in the dtype of the pointers, rounded to nearest even: bfloat16 by its bits."""
    if pointers.dtype.element_ty == tl.bfloat16:
        bits = value.to(tl.int32, bitcast=True)
        bits = (bits + 32767 + ((bits >> 16) & 1)) >> 16
        tl.store(pointers, bits.to(tl.int16).to(tl.bfloat16, bitcast=True), mask=mask)
    else:
        tl.store(pointers, value.to(pointers.dtype.element_ty), mask=mask)


@triton.jit
def _advance(
    stream: tl.tensor,
    increment: tl.tensor,
    result: tl.tensor,
    kept: tl.tensor | None,
    value: tl.tensor | None,
    peak: tl.tensor,
    checksum: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    words: tl.tensor,
    factor: tl.tensor,
    step: tl.tensor,
    COUNT: tl.constexpr,  # noqa: N803
    BITS: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
) -> None:
    """Result = stream div COUNT + quantised(increment), on ROWS rows and BLOCK bytes of each."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    word = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (word < words)
    packed = tl.zeros([ROWS, BLOCK], tl.int32)
    largest = tl.zeros([ROWS, BLOCK], tl.int32)
    total = tl.zeros([ROWS, BLOCK], tl.int32)
    for plane in tl.static_range(8 // BITS):
        column = plane * words + word
        mask = inside & (column < width)
        place = row * width + column
        before = tl.load(stream + place, mask=mask, other=0)
        added = tl.load(increment + place, mask=mask, other=0.0).to(tl.float32)
        after = _quantised(added, factor)
        if COUNT > 1:
            quotient, remainder = _divided(before, COUNT)
            packed |= remainder << (BITS * plane)
            after += quotient
        else:
            after += before
        tl.store(result + place, after, mask=mask)
        if value is not None:
            _store_value(value + place, after.to(tl.float32) * step, mask)
        largest = tl.maximum(largest, tl.abs(added).to(tl.int32, bitcast=True))  # bits in their order, NaN last
        total += before + before * before
    if COUNT > 1:
        tl.store(kept + row * words + word, packed.to(tl.uint8), mask=inside)
    tl.atomic_max(peak.to(tl.pointer_type(tl.int32), bitcast=True), tl.max(tl.max(largest, 1), 0), sem="relaxed")
    tl.atomic_add(checksum, tl.sum(tl.sum(total.to(tl.int64), 1), 0).to(tl.int32), sem="relaxed")


@triton.jit
def _revert(
    stream: tl.tensor,
    increment: tl.tensor,
    kept: tl.tensor | None,
    checksum: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    words: tl.tensor,
    factor: tl.tensor,
    COUNT: tl.constexpr,  # noqa: N803
    BITS: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
) -> None:
    """Stream = (stream - quantised(increment)) * COUNT + remainder, in place."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    word = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (word < words)
    if COUNT > 1:
        packed = tl.load(kept + row * words + word, mask=inside, other=0).to(tl.int32)
    total = tl.zeros([ROWS, BLOCK], tl.int32)
    for plane in tl.static_range(8 // BITS):
        column = plane * words + word
        mask = inside & (column < width)
        place = row * width + column
        before = tl.load(stream + place, mask=mask, other=0)
        before -= _quantised(tl.load(increment + place, mask=mask, other=0.0).to(tl.float32), factor)
        if COUNT > 1:
            before = before * COUNT + ((packed >> (BITS * plane)) & ((1 << BITS) - 1))
        tl.store(stream + place, before, mask=mask)
        total += before + before * before
    tl.atomic_add(checksum, tl.sum(tl.sum(total.to(tl.int64), 1), 0).to(tl.int32), sem="relaxed")
