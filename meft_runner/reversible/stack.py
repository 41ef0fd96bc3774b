"""A stack of reversible blocks as a module: the forward pass, and the choice of how it is reversed."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from meft_runner.reversible.block import BlockInputs, ReversibleBlock, evaluate
from meft_runner.reversible.function import ReversibleFunction, Trace, checksum
from meft_runner.reversible.monitor import ReversalMonitor
from meft_runner.reversible.replay import AutocastState, random_state
from meft_runner.reversible.streams import ExactStreams, FloatStreams, StoredStreams, Streams

MODES = ("exact", "float", "stored")


@dataclass(frozen=True)
class Coupling:
    """How the two streams of a block are tied (paper, figure 5 and equation 3).

    Attributes:
        scale_1: lambda, the factor of x1.
        scale_2: beta, the factor of x2.
        swap: whether the outputs change places before the next block.
        merge: weights (w1, w2) of the two streams in the stack's output.
    """

    scale_1: Fraction
    scale_2: Fraction
    swap: bool
    merge: tuple[float, float] = (0.5, 0.5)


class ReversibleStack(nn.Module):
    """Reversible blocks run one after the other, with a choice of how backward gets its activations.

    Args:
        blocks: the blocks, bottom first.
        coupling: scales, swap and merge weights.
        mode: `exact` (rebuilt without error), `float` (rebuilt by the paper's arithmetic) or
            `stored` (ordinary autograd over the forward of `exact`).
        grid_bits: the integer grid's step is 2^-grid_bits.
        chunks: parts in which the rows of a batch are computed one after the other.
        strict: whether a stream that comes back different stops the run.

    Raises:
        ValueError: unknown mode, or a scale that the mode cannot invert.
    """

    def __init__(
        self,
        blocks: Sequence[ReversibleBlock],
        coupling: Coupling,
        mode: str = "exact",
        grid_bits: int = 16,
        chunks: int = 1,
        strict: bool = True,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode {mode!r} is none of {', '.join(MODES)}")
        exact = ExactStreams(grid_bits)
        for scale in (coupling.scale_1, coupling.scale_2):
            if mode != "float":
                exact.check_scale(scale)
            elif scale == 0:
                raise ValueError("a scale of 0 cannot be inverted")
        self.blocks = nn.ModuleList(blocks)
        self.coupling = coupling
        self.mode = mode
        self.chunks = chunks
        self.streams: Streams = {"exact": exact, "float": FloatStreams(), "stored": StoredStreams(exact)}[mode]
        self.monitor = ReversalMonitor(strict=strict)

    def forward(self, hidden: Tensor, inputs: BlockInputs | None = None) -> Tensor:
        """Runs the blocks.

        Args:
            hidden: (B, S, H), where both streams start.
            inputs: what the blocks read besides.

        Returns:
            The merged streams, (B, S, H), in the dtype of `hidden`.

        Raises:
            StreamOverflowError: a stream is not finite or leaves the grid.
        """
        inputs = inputs or BlockInputs()
        tensors = (*inputs.tensors(), *self.trainable_parameters())
        differentiable = any(tensor is not None and tensor.requires_grad for tensor in (hidden, *tensors))
        if self.mode != "stored" and torch.is_grad_enabled() and differentiable:
            return ReversibleFunction.apply(self, hidden, *tensors)
        with AutocastState.current(hidden.device).entered():
            return self.merged(self.run(hidden, inputs, trace=None), hidden.dtype)

    def run(self, hidden: Tensor, inputs: BlockInputs, trace: Trace | None) -> tuple[Any, Any]:
        """Runs the blocks forward and returns the last two streams.

        Args:
            hidden: (B, S, H).
            inputs: what the blocks read besides.
            trace: receives what the backward pass needs, where there will be one.

        Raises:
            StreamOverflowError: a stream is not finite or leaves the grid.
        """
        x1 = x2 = self.streams.start(hidden)
        peaks = [_peak(hidden)]
        for block in self.blocks:
            if trace and trace.checksums is not None:
                trace.checksums.append(checksum(x1, x2))
            x1, x2 = self._advance(block, x1, x2, inputs, hidden.dtype, peaks, trace)
        scales = (self.coupling.scale_1, self.coupling.scale_2)
        self.monitor.check_peaks(self.names, torch.stack(peaks), scales, self.coupling.swap, self.streams.limit)
        return x1, x2

    def _advance(
        self,
        block: ReversibleBlock,
        x1: Any,
        x2: Any,
        inputs: BlockInputs,
        dtype: torch.dtype,
        peaks: list[Tensor],
        trace: Trace | None,
    ) -> tuple[Any, Any]:
        """The one forward of a block, whatever the arithmetic; returns the next (x1, x2)."""
        outputs = []
        reads = x2
        for function, scale, stream in (
            (block.f, self.coupling.scale_1, x1),
            (block.g, self.coupling.scale_2, x2),
        ):
            value = self.streams.value(reads, dtype)
            if trace:
                trace.random_states.append(random_state(value.device))
            increment = evaluate(function, value, inputs, self.chunks)
            peaks.append(_peak(increment))
            reads, kept = self.streams.advance(stream, scale, increment)
            outputs.append(reads)
            if trace:
                trace.kept.append(kept)
        y1, y2 = outputs
        return (y2, y1) if self.coupling.swap else (y1, y2)

    def merged(self, streams: tuple[Any, Any], dtype: torch.dtype) -> Tensor:
        """Returns w1 * x1 + w2 * x2, (B, S, H)."""
        value_1, value_2 = (self.streams.value(stream, dtype) for stream in streams)
        w1, w2 = self.coupling.merge
        return w1 * value_1 + w2 * value_2

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Returns the parameters that require gradient, each once."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    @property
    def names(self) -> list[str]:
        """The blocks' names, bottom first."""
        return [block.name for block in self.blocks]


def _peak(values: Tensor) -> Tensor:
    """Returns the largest magnitude as a float32 scalar; NaN if any value is."""
    return torch.linalg.vector_norm(values.detach(), ord=float("inf"), dtype=torch.float32)
