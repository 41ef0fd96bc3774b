"""The arithmetic of one stream: y = scale * x + mu * increment, and its inverse.

Three kinds share `start`, `rows`, `value`, `advance`, `bound` and `limit`, so that the code that runs a block does not
know which one it uses; the first two also have `revert_`:

* `FloatStreams`, the paper's: floating point, inverted by a division that enlarges rounding errors;
* `ExactStreams`: integers on a grid of step 2^-bits, inverted without any error;
* `StoredStreams`: the exact forward with an ordinary autograd graph, the reference for gradients.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor

from meft_runner.reversible.arithmetic import Advanced, checksum, ends, quantise, wide
from meft_runner.reversible.coupling import Weights
from meft_runner.reversible.kernels import KERNELS, arithmetic_for
from meft_runner.reversible.packing import packed_bits

MODES = ("exact", "float", "stored")


@dataclass(frozen=True)
class FloatStreams:
    """Floating-point streams; the inverse divides by the scale (arXiv 2306.00477)."""

    limit: float = float("inf")

    def start(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Returns both streams: `hidden` itself."""
        return hidden, hidden

    def resumed(self, stream: Tensor, value: Tensor) -> Tensor:
        """Returns a stream that goes on from another, with a gradient that is a tensor of its own."""
        return _own_gradient(value)

    def rows(self, stream: Tensor, place: slice) -> Tensor:
        """Returns some rows of a stream."""
        return stream[place]

    def value(self, stream: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns the stream in `dtype`."""
        return stream.to(dtype)

    def advance(self, stream: Tensor, weights: Weights, increment: Tensor, value_dtype: torch.dtype | None) -> Advanced:
        """Returns scale * stream + mu * increment; nothing is kept for the inverse."""
        result = torch.add(stream * float(weights.scale), increment, alpha=weights.mu)
        return Advanced(result, None, ends(increment))

    def bound(self, stream: float, weights: Weights, increment: float) -> float:
        """Returns how large `advance` can make a stream, given the largest magnitudes of both."""
        return float(weights.scale) * stream + weights.mu * increment

    def revert_(self, stream: Tensor, weights: Weights, increment: Tensor, kept: Tensor | None) -> None:
        """Turns the stream into (stream - mu * increment) / scale, in place; there is no checksum of a stream."""
        stream.sub_(increment, alpha=weights.mu).div_(float(weights.scale))


@dataclass(frozen=True)
class ExactStreams:
    """Integer streams: J = I div n + q(mu * increment), undone by I = (J - q(mu * increment)) * n + I mod n.

    Args:
        bits: the grid's step is 2^-bits; 16 covers +-32768 at 1.5e-5.
        kernels: how it is computed, one of `KERNELS`; the bits are the same.
    """

    bits: int = 16
    kernels: str = "auto"

    @property
    def limit(self) -> float:
        """The magnitude at which an int32 stream overflows."""
        return 2.0 ** (31 - self.bits)

    def check_scale(self, scale: Fraction) -> None:
        """Refuses a scale that integer division cannot express.

        Raises:
            ValueError: the scale is not 1/n with n from 1 to 256.
        """
        if scale.numerator != 1:
            raise ValueError(f"{scale} is not a unit fraction 1/n")
        if scale.denominator > 1:
            packed_bits(scale.denominator)

    def start(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Returns both streams: `hidden` rounded to the grid, int32, one tensor."""
        start = quantise(hidden, 2.0**self.bits)
        return start, start

    def rows(self, stream: Tensor, place: slice) -> Tensor:
        """Returns some rows of a stream."""
        return stream[place]

    def value(self, stream: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns the integers as floating point in `dtype`, through float32 at the least."""
        return stream.to(wide(dtype)).mul_(2.0**-self.bits).to(dtype)

    def advance(self, stream: Tensor, weights: Weights, increment: Tensor, value_dtype: torch.dtype | None) -> Advanced:
        """Returns I div n + q(mu * increment) and the packed I mod n, nothing for n = 1.

        Args:
            stream: I, (B, S, H).
            weights: 1/n and mu.
            increment: (B, S, H).
            value_dtype: in which the result's value will be read, None for not at all; it comes with the result where
                that costs nothing.
        """
        form = arithmetic_for(self.kernels, increment)
        at_once = None if value_dtype is torch.float64 else value_dtype  # made in float32, which has not all integers
        return form.advance(stream, increment, weights.scale.denominator, weights.mu, self.bits, at_once)

    def bound(self, stream: float, weights: Weights, increment: float) -> float:
        """Returns how large `advance` can make a stream, given the largest magnitudes of both, to the last integer.

        Division rounds down, away from 0 where a number is negative. A product in float32 and its factor are each
        rounded by 2^-24 of themselves at the most, and the product then to an integer.
        """
        added = weights.mu * 2.0**self.bits * increment * (1 + 2**-22)
        if not math.isfinite(added):
            return added
        divided = -(-stream * 2.0**self.bits // weights.scale.denominator)
        return (divided + math.floor(added + 0.5)) * 2.0**-self.bits

    def revert_(self, stream: Tensor, weights: Weights, increment: Tensor, kept: Tensor | None) -> Tensor:
        """Turns the stream, or any rows of it, into what `advance` was given, in place; returns its checksum."""
        form: Any = arithmetic_for(self.kernels, increment)
        return form.revert_(stream, increment, kept, weights.scale.denominator, weights.mu, self.bits)

    def checksum(self, stream: Tensor) -> Tensor:
        """Returns an int32 scalar that changes with (almost) any change of the stream."""
        return checksum(stream)


class StoredStream(NamedTuple):
    """An exact stream together with its floating-point value in the autograd graph."""

    integers: Tensor
    value: Tensor


@dataclass(frozen=True)
class StoredStreams:
    """The exact arithmetic seen by ordinary autograd: rounding passes gradients straight through."""

    exact: ExactStreams

    @property
    def limit(self) -> float:
        """The magnitude at which an int32 stream overflows."""
        return self.exact.limit

    def bound(self, stream: float, weights: Weights, increment: float) -> float:
        """Returns how large `advance` can make a stream, given the largest magnitudes of both."""
        return self.exact.bound(stream, weights, increment)

    def start(self, hidden: Tensor) -> tuple[StoredStream, StoredStream]:
        """Returns both streams, which begin at `hidden`, each with a gradient of its own."""
        integers, _ = self.exact.start(hidden.detach())
        value = self.exact.value(integers, hidden.dtype)
        first, second = (_StraightThrough.apply(value, hidden, None, Weights(Fraction(1))) for _ in range(2))
        return StoredStream(integers, first), StoredStream(integers, second)

    def resumed(self, integers: Tensor, value: Tensor) -> StoredStream:
        """Returns a stream that goes on from others, with a gradient that is a tensor of its own."""
        return StoredStream(integers, _own_gradient(value))

    def rows(self, stream: StoredStream, place: slice) -> StoredStream:
        """Returns some rows of a stream."""
        if place == slice(0, len(stream.integers)):
            return stream  # without a copy of the gradient in backward
        return StoredStream(stream.integers[place], stream.value[place])

    def value(self, stream: StoredStream, dtype: torch.dtype) -> Tensor:
        """Returns the stream's value, connected to the graph by a node of its own.

        So what a function passes back is summed before it is added to the stream's gradient, as a reversal does it.
        """
        return stream.value.view_as(stream.value).to(dtype)

    def advance(
        self, stream: StoredStream, weights: Weights, increment: Tensor, value_dtype: torch.dtype | None
    ) -> Advanced:
        """Returns what `ExactStreams.advance` computes, with the gradient of scale * x + mu * increment."""
        dtype = stream.value.dtype
        made = self.exact.advance(stream.integers, weights, increment.detach(), dtype)
        value = self.exact.value(made.result, dtype) if made.value is None else made.value
        carried = _StraightThrough.apply(value, stream.value, increment, weights)
        return Advanced(StoredStream(made.result, carried), None, made.ends)


class _StraightThrough(torch.autograd.Function):
    """Forward: `result` as it was computed. Backward: as if it were scale * carried + mu * increment."""

    @staticmethod
    def forward(ctx: Any, result: Tensor, carried: Tensor, increment: Tensor | None, weights: Weights) -> Tensor:
        """Returns `result`, (B, S, H), as a tensor of its own in the graph."""
        ctx.weights = weights
        ctx.set_materialize_grads(False)  # what nothing reads gets no gradient, rather than zeros
        ctx.increment_dtype = None if increment is None else increment.dtype
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[None, Tensor | None, Tensor | None, None]:
        """Returns the gradients of `carried` and `increment`."""
        (grad,) = grads
        if grad is None:
            return None, None, None, None
        weights: Weights = ctx.weights
        increment = None if ctx.increment_dtype is None else (grad * weights.mu).to(ctx.increment_dtype)
        return None, grad * float(weights.scale), increment, None


def _own_gradient(value: Tensor) -> Tensor:
    """Returns a value whose gradient in backward is a new tensor."""
    return _StraightThrough.apply(value, value, None, Weights(Fraction(1)))


Streams = FloatStreams | ExactStreams | StoredStreams


def make_streams(mode: str, scales: tuple[Fraction, Fraction], grid_bits: int, kernels: str = "auto") -> Streams:
    """Returns the arithmetic of a mode.

    Args:
        mode: exact, float or stored.
        scales: lambda and beta.
        grid_bits: the integer grid's step is 2^-grid_bits.
        kernels: how integers are computed, one of `KERNELS`.

    Raises:
        ValueError: the mode or kernels are not known, or the mode cannot express or invert a scale.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is none of {', '.join(MODES)}")
    if kernels not in KERNELS:
        raise ValueError(f"kernels {kernels!r} are none of {', '.join(KERNELS)}")
    if mode == "float":
        if 0 in scales:
            raise ValueError("a scale of 0 cannot be inverted")
        return FloatStreams()
    exact = ExactStreams(grid_bits, kernels)
    for scale in scales:
        exact.check_scale(scale)
    return exact if mode == "exact" else StoredStreams(exact)
