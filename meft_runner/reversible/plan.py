"""What a pass over a stack needs to know of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import nn

from meft_runner.reversible.block import ReversibleBlock
from meft_runner.reversible.border import with_graph
from meft_runner.reversible.chunks import Chunks
from meft_runner.reversible.coupling import Coupling
from meft_runner.reversible.monitor import ReversalMonitor
from meft_runner.reversible.streams import Streams


@dataclass(frozen=True)
class Plan:
    """The blocks of a stack and how they are run.

    Attributes:
        blocks: the blocks, bottom first.
        coupling: scales and swap.
        streams: the arithmetic.
        chunks: into how many a batch is cut, computed one after the other; None for chunks of about 1,024 tokens.
        cutting: how chunks are made.
        monitor: receives what the checks find.
        offload: whether what is kept for backward waits in the host's memory.
    """

    blocks: Sequence[ReversibleBlock]
    coupling: Coupling
    streams: Streams
    chunks: int | None
    cutting: type[Chunks]
    monitor: ReversalMonitor
    offload: bool = False

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Returns the parameters that require gradient, each once."""
        return [parameter for parameter in nn.ModuleList(self.blocks).parameters() if parameter.requires_grad]

    def cut(self, batch: torch.Size) -> Chunks:
        """Returns how large a chunk of a (B, S, H) batch may be."""
        return self.cutting.of(batch, self.chunks)

    def split(self, reversed_blocks: int) -> tuple[Self, Self]:
        """Returns the plans of the lowest blocks, to be reversed, and of those above, which keep ordinary graphs."""
        below, above = self.blocks[:reversed_blocks], self.blocks[reversed_blocks:]
        return (
            replace(self, blocks=below),
            replace(self, blocks=above, streams=with_graph(self.streams)),
        )
