"""What a pass over a stack needs to know of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from meft_runner.reversible.block import ReversibleBlock
from meft_runner.reversible.monitor import ReversalMonitor
from meft_runner.reversible.streams import Streams


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


@dataclass(frozen=True)
class Plan:
    """The blocks of a stack and how they are run.

    Attributes:
        blocks: the blocks, bottom first.
        coupling: scales, swap and merge weights.
        streams: the arithmetic.
        chunks: into how many a batch is cut, computed one after the other; None for chunks of about 1,024 tokens.
        monitor: receives what the checks find.
    """

    blocks: Sequence[ReversibleBlock]
    coupling: Coupling
    streams: Streams
    chunks: int | None
    monitor: ReversalMonitor

    @property
    def names(self) -> list[str]:
        """The blocks' names, bottom first."""
        return [block.name for block in self.blocks]

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Returns the parameters that require gradient, each once."""
        return [parameter for parameter in nn.ModuleList(self.blocks).parameters() if parameter.requires_grad]

    def merged(self, x1: Any, x2: Any, dtype: torch.dtype) -> Tensor:
        """Returns w1 * x1 + w2 * x2, (B, S, H)."""
        w1, w2 = self.coupling.merge
        return w1 * self.streams.value(x1, dtype) + w2 * self.streams.value(x2, dtype)
