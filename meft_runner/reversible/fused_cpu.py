"""The exact arithmetic of one half as a single loop on a CPU, compiled by Numba, bit for bit that of `arithmetic.py`.

Torch's operations write a tensor each, a dozen in all, and moving them through memory is what takes the time. Here a
row is read once, and all that comes of it is written. Numba compiles a function at its first call, in about a second,
and keeps the result for later processes. One thread runs the loop: of two, the second has to wait for a core on which
torch's own threads still spin, and both took longer.
"""

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from meft_runner.reversible.arithmetic import Advanced
from meft_runner.reversible.kernels import check_remainders, checked
from meft_runner.reversible.packing import packed_bits

if getattr(numba.config, "DISABLE_JIT", False):
    raise ImportError("NUMBA_DISABLE_JIT is set, under which loops run as Python")
_Array = NDArray[Any]
# All bits of a float32 but its sign: as integers they order magnitudes, with NaN as the largest.
_MAGNITUDE = 0x7FFFFFFF


def advance(
    stream: Tensor, increment: Tensor, count: int, mu: float, bits: int, value_dtype: torch.dtype | None = None
) -> Advanced:
    """Adds an increment to a stream, as `arithmetic.advance` does, with value and checksum from the same loop.

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
    result = torch.empty_like(stream)
    value = None if value_dtype is None else torch.empty_like(stream, dtype=torch.float32)
    kept = None
    if count > 1:
        kept = stream.new_empty(*stream.shape[:-1], _words(stream, count), dtype=torch.uint8)
    checksum, peak = _advance(
        _rows(stream), _read(increment), _rows(result), _rows(kept, np.uint8), _rows(value),
        np.int32(count), _bits(count), np.float32(mu * 2.0**bits), np.float32(2.0**-bits),
    )  # fmt: skip
    peak = _scalar(peak).view(torch.float32)
    value = None if value is None else value.to(value_dtype)
    return Advanced(result, kept, (peak, peak), value, _scalar(checksum))


def revert_(stream: Tensor, increment: Tensor, kept: Tensor | None, count: int, mu: float, bits: int) -> Tensor:
    """Turns a stream, or some of its tokens, into what `advance` was given, bit for bit, in place.

    Returns:
        The checksum of what came back.

    Raises:
        ValueError: the tensors do not go together.
    """
    increment = checked(stream, increment)
    check_remainders(kept, stream, _words(stream, count))
    found = _revert(
        _rows(stream),
        _read(increment),
        _rows(kept, np.uint8),
        np.int32(count),
        _bits(count),
        np.float32(mu * 2.0**bits),
    )
    return _scalar(found)


def _rows(tensor: Tensor | None, dtype: Any = np.float32) -> _Array:
    """Returns a contiguous tensor's memory as rows; none, of that dtype, for what there is not."""
    if tensor is None:
        return np.empty((0, 0), dtype)
    return tensor.view(-1, tensor.shape[-1]).numpy()


def _scalar(number: Any) -> Tensor:
    return torch.tensor(number, dtype=torch.int32, device="cpu")  # whatever torch's default device is


def _read(increment: Tensor) -> _Array:
    return _rows(increment.detach().float())


def _bits(count: int) -> int:
    return 8 if count == 1 else packed_bits(count)


def _words(stream: Tensor, count: int) -> int:
    """Returns the bytes of a row's remainders."""
    return -(-stream.shape[-1] * _bits(count) // 8)


def _compiled(function: Any) -> Any:
    """Compiles a function at its first call, and keeps the result on disk where a folder can be written."""
    try:
        return numba.njit(function, cache=True, nogil=True, error_model="numpy")
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(function, nogil=True, error_model="numpy")


# Each row is a flat array of its own in what follows: so the compiler finds what it can compute eight at a time.


@_compiled
def _quantised(increment: np.float32, factor: np.float32) -> np.int32:
    return np.int32(np.rint(increment * factor))


@_compiled
def _checksum(stream: _Array) -> np.int32:
    """Returns what `arithmetic.checksum` does."""
    total = np.int32(0)
    for i in range(len(stream)):
        total = np.int32(total + np.int32(stream[i] * np.int32(stream[i] + np.int32(1))))
    return total


@_compiled
def _largest(bits: _Array) -> np.int32:
    """Returns the largest magnitude of float32 numbers, given and returned as their bits."""
    peak = np.int32(0)
    for i in range(len(bits)):
        peak = max(peak, np.int32(bits[i] & _MAGNITUDE))
    return peak


@_compiled
def _add(stream: _Array, increment: _Array, factor: np.float32, result: _Array) -> None:
    for i in range(len(stream)):
        result[i] = stream[i] + _quantised(increment[i], factor)


@_compiled
def _divide_and_add(
    stream: _Array, increment: _Array, count: np.int32, factor: np.float32, result: _Array, remainders: _Array
) -> None:
    # (x + 1/2) / n is at least 1 / 2n away from an integer, so that a product in float64 rounds down to the right one.
    inverse = 1.0 / count
    for i in range(len(stream)):
        quotient = np.int32(np.floor((stream[i] + 0.5) * inverse))
        remainders[i] = stream[i] - quotient * count
        result[i] = quotient + _quantised(increment[i], factor)


@_compiled
def _pack(remainders: _Array, bits: int, words: _Array) -> None:
    """Packs a row's remainders as `packing.pack` does."""
    size = len(words)
    for i in range(size):
        words[i] = remainders[i]
    for shift in range(bits, 8, bits):
        plane = remainders[shift // bits * size : (shift // bits + 1) * size]
        for i in range(len(plane)):
            words[i] |= plane[i] << shift


@_compiled
def _to_float(stream: _Array, step: np.float32, value: _Array) -> None:
    for i in range(len(stream)):
        value[i] = np.float32(stream[i]) * step


@_compiled
def _advance(
    stream: _Array, increment: _Array, result: _Array, kept: _Array, value: _Array,
    count: np.int32, bits: int, factor: np.float32, step: np.float32,
) -> tuple[np.int32, np.int32]:  # fmt: skip
    """Fills result, kept and value; returns the stream's checksum, and the largest magnitude as a float32's bits."""
    rows, width = stream.shape
    remainders = np.empty(width, np.int32)
    magnitudes = increment.view(np.int32)
    total, peak = np.int32(0), np.int32(0)
    for row in range(rows):
        if count == 1:
            _add(stream[row], increment[row], factor, result[row])
        else:
            _divide_and_add(stream[row], increment[row], count, factor, result[row], remainders)
            _pack(remainders, bits, kept[row])
        if value.size:
            _to_float(result[row], step, value[row])
        total = np.int32(total + _checksum(stream[row]))
        peak = max(peak, _largest(magnitudes[row]))
    return total, peak


@_compiled
def _multiply_back(
    stream: _Array, increment: _Array, words: _Array, count: np.int32, shift: int, mask: int, factor: np.float32
) -> None:
    """Undoes a plane of a row, whose remainders are `words`, shifted."""
    for i in range(len(stream)):
        remainder = (np.int32(words[i]) >> shift) & mask
        stream[i] = (stream[i] - _quantised(increment[i], factor)) * count + remainder


@_compiled
def _revert(
    stream: _Array, increment: _Array, kept: _Array, count: np.int32, bits: int, factor: np.float32
) -> np.int32:
    """Takes the increment out of the stream, multiplies it by n and adds the remainders; returns its checksum."""
    size, mask = kept.shape[1], np.int32((1 << bits) - 1)
    total = np.int32(0)
    for row in range(len(stream)):
        if count == 1:
            _add(stream[row], increment[row], -factor, stream[row])
        else:
            for shift in range(0, 8, bits):
                start, end = shift // bits * size, (shift // bits + 1) * size
                plane, added = stream[row, start:end], increment[row, start:end]
                _multiply_back(plane, added, kept[row], count, np.int32(shift), mask, factor)
        total = np.int32(total + _checksum(stream[row]))
    return total
