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

    def check_rebuilt(self, names: list[str], distance: Tensor, drifts: Tensor | None) -> None:
        """Compares the two streams that backward rebuilt at the bottom; both started as the same tensor.

        Args:
            names: of the block of each function, in the order of the backward pass: top first.
            distance: x1 - x2 as rebuilt, (B, S, H).
            drifts: in that order, the difference of the rebuilt stream's checksum from the forward pass's,
                or None where streams are floating point and only their distance is reported.

        Raises:
            ReversalError: in strict mode, when exact streams differ.
        """
        self.checked_steps += 1
        if distance.numel() == 0:
            return
        found = torch.stack([distance.abs().max().double(), torch.count_nonzero(distance).double()])
        if drifts is not None:
            found = torch.cat([found, drifts.ne(0).double()])
        error, count, *drifted_at = found.tolist()  # one transfer a backward pass
        differing = int(count)
        self.max_error = max(self.max_error, error, key=_nan_largest)
        if drifts is None:
            return
        drifted = [name for name, drift in zip(names, drifted_at, strict=True) if drift]
        if not differing and not drifted:
            return
        self.mismatches += max(differing, 1)
        if self.strict:
            where = drifted[0] if drifted else names[-1]
            raise ReversalError(
                f"reversal is not exact: {differing} of {distance.numel()} stream elements came back different, first "
                f"in {where}. A kernel did not repeat its result; try another attention implementation, or "
                "method.strict=false to count instead of stopping."
            )


def _nan_largest(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _require_below(limit: float, value: float, where: str) -> None:
    if not value < limit:
        raise StreamOverflowError(
            f"the streams of the reversible stack reach {value:.6g} at {where}, but must stay below {limit:.6g}. "
            "Lower training.learning_rate, take precision=fp32 or bf16, or a wider grid (fewer method.grid_bits)."
        )
