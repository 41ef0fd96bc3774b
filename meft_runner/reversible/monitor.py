"""What the engine knows about its own exactness: overflow, NaN, and streams that came back changed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from meft_runner.reversible.block import ReversibleBlock
from meft_runner.reversible.coupling import Coupling, Weights
from meft_runner.reversible.streams import Streams

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of an element


class ReversalError(RuntimeError):
    """A rebuilt stream differs from the one of the forward pass."""


class StreamOverflowError(RuntimeError):
    """A stream is not finite, or too large for the integer grid."""


@dataclass
class ReversalMonitor:
    """Counts what the checks of every pass found; nothing here takes part in the computation.

    Attributes:
        strict: a mismatch stops the run.
        checked_steps: backward passes that were checked.
        mismatches: stream elements that came back different, over all passes.
        max_error: largest distance between the two rebuilt first streams (they started equal).
    """

    strict: bool = True
    checked_steps: int = 0
    mismatches: int = 0
    max_error: float = 0.0

    def reset(self) -> None:
        """Forgets what was found so far."""
        self.checked_steps, self.mismatches, self.max_error = 0, 0, 0.0

    def check_peaks(
        self, blocks: Sequence[ReversibleBlock], peaks: Tensor, coupling: Coupling, streams: Streams
    ) -> None:
        """Bounds the streams block by block from the largest increments, and stops where a bound is too large.

        |y| <= scale * |x| + mu * |increment|, and on a grid what rounding adds: so the recurrence of the block, run on
        magnitudes, bounds every stream with one reduction an increment and one transfer a forward pass.

        Args:
            blocks: the blocks, bottom first.
            peaks: largest magnitudes: of the first stream, then of each function's increment, (1 + functions).
            coupling: how the streams are tied.
            streams: their arithmetic.

        Raises:
            StreamOverflowError: a bound reaches the limit or is not a number.
        """
        limit = streams.limit
        half_1, half_2 = coupling.halves
        first, *increments = peaks.tolist()
        bound_1 = bound_2 = streams.bound(0.0, Weights(Fraction(1)), first)
        _require_below(limit, bound_1, "the input of the first reversible layer")
        each = iter(increments)
        for block in blocks:
            bound_1 = streams.bound(bound_1, half_1, next(each))
            if block.g is not None:
                bound_2 = streams.bound(bound_2, half_2, next(each))
            _require_below(limit, max(bound_1, bound_2, key=_nan_largest), block.name)
            if coupling.swap:
                bound_1, bound_2 = bound_2, bound_1

    def check_rebuilt(self, names: list[str], moved: Tensor, distance: Tensor, drifts: Tensor | None) -> None:
        """Compares the two streams that backward rebuilt at the bottom; both started as the same tensor.

        Args:
            names: of the block of each function, in the order of the backward pass: top first.
            moved: whether a fingerprint of the streams that backward was given differs from the forward pass's, (2,).
            distance: x1 - x2 as rebuilt, (B, S, H).
            drifts: in that order, the difference of the rebuilt stream's checksum from the forward pass's,
                or None where streams are floating point and only their distance is reported.

        Raises:
            ReversalError: in strict mode, when exact streams differ, or any were not given back as they were saved.
        """
        self.checked_steps += 1
        if distance.numel() == 0:
            return
        found = torch.stack(
            [distance.abs().max().double(), torch.count_nonzero(distance).double(), moved.any().double()]
        )
        if drifts is not None:
            found = torch.cat([found, drifts.ne(0).double()])
        error, count, were_moved, *drifted_at = found.tolist()  # one transfer a backward pass
        self.max_error = max(self.max_error, error, key=_nan_largest)
        drifted = [name for name, drift in zip(names, drifted_at, strict=False) if drift]  # no drifts of floats
        differing = 0 if drifts is None else int(count)
        if not (were_moved or differing or drifted):
            return
        self.mismatches += max(differing, 1)
        if not self.strict:
            return
        if were_moved:
            raise ReversalError(
                "the streams that were saved for backward came back changed or in another order. Saved-tensor hooks, "
                "or whatever else kept them, must return each tensor as it was."
            )
        raise ReversalError(
            f"reversal is not exact: {differing} of {distance.numel()} stream elements came back different, first in "
            f"{drifted[0] if drifted else names[-1]}. A kernel did not repeat its result, another thread drew random "
            "numbers, or the model was changed between forward and backward; try another attention implementation, or "
            "method.strict=false to count instead of stopping."
        )


def fingerprint(stream: Tensor) -> Tensor:
    """Returns an int32 scalar that changes with (almost) any change or exchange of a stream's elements.

    It is the sum of their bits, weighted by their places, modulo 2^32.
    """
    integers = stream.contiguous().view(_INTEGERS[stream.element_size()]).flatten(0, -2)
    rows, columns = (
        torch.arange(1, 2 * size + 1, 2, dtype=torch.int32, device=stream.device) for size in integers.shape
    )
    return ((integers * columns).sum(-1, dtype=torch.int32) * rows).sum(dtype=torch.int32)


def _nan_largest(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _require_below(limit: float, value: float, where: str) -> None:
    if not value < limit:
        advice = "take precision=fp32 or bf16, or a wider grid (fewer method.grid_bits)"
        if math.isinf(limit):  # no grid: the published arithmetic
            advice = "or take method.reversal=exact: the published inverse divides rounding errors by lambda a layer"
        raise StreamOverflowError(
            f"the streams of the reversible stack reach {value:.6g} at {where}, but must stay below {limit:.6g}. "
            f"Lower training.learning_rate, {advice}."
        )
