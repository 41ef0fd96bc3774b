"""A stack of reversible blocks as a module: the forward pass, and the choice of how it is reversed."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from meft_runner.reversible.block import BlockInputs, ReversibleBlock
from meft_runner.reversible.function import ReversibleFunction
from meft_runner.reversible.monitor import ReversalMonitor
from meft_runner.reversible.passes import ForwardPass
from meft_runner.reversible.replay import AutocastState
from meft_runner.reversible.streams import Streams, make_streams


@dataclass(frozen=True)
class Coupling:
    """How the two streams of a block are tied (arXiv 2306.00477).

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

    @property
    def scales(self) -> tuple[Fraction, Fraction]:
        """Lambda and beta."""
        return self.scale_1, self.scale_2


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
        self.blocks = nn.ModuleList(blocks)
        self.coupling = coupling
        self.mode = mode
        self.chunks = chunks
        self.streams: Streams = make_streams(mode, coupling.scales, grid_bits)
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
            return self.merged(ForwardPass(self, inputs).run(hidden), hidden.dtype)

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
        return [block.name for block in self.bottom_up()]

    @property
    def limit(self) -> float:
        """The magnitude that the streams must stay below."""
        return self.streams.limit

    def bottom_up(self) -> list[ReversibleBlock]:
        """Returns the blocks in the order of the forward pass."""
        return [block for block in self.blocks if isinstance(block, ReversibleBlock)]
