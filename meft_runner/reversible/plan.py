"""What a pass over a stack needs to know of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from meft_runner.reversible.block import ReversibleBlock
from meft_runner.reversible.chunks import Chunks
from meft_runner.reversible.coupling import Coupling
from meft_runner.reversible.monitor import ReversalMonitor
from meft_runner.reversible.streams import Streams


@dataclass(frozen=True)
class Plan:
    """The blocks of a stack and how they are run.

    Attributes:
        blocks: the blocks, bottom first.
        coupling: scales, swap and merge weights.
        learned_merge: (2,), the merge weights where they are learned, in place of the coupling's.
        streams: the arithmetic.
        chunks: into how many a batch is cut, computed one after the other; None for chunks of about 1,024 tokens.
        cutting: how chunks are made.
        monitor: receives what the checks find.
        offload: whether what is kept for backward waits in the host's memory.
    """

    blocks: Sequence[ReversibleBlock]
    coupling: Coupling
    learned_merge: nn.Parameter | None
    streams: Streams
    chunks: int | None
    cutting: type[Chunks]
    monitor: ReversalMonitor
    offload: bool = False

    @property
    def names(self) -> list[str]:
        """The blocks' names, bottom first."""
        return [block.name for block in self.blocks]

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Returns the parameters that require gradient, each once."""
        merge = [] if self.learned_merge is None else [self.learned_merge]
        parameters = [*merge, *nn.ModuleList(self.blocks).parameters()]
        return [parameter for parameter in parameters if parameter.requires_grad]

    def cut(self, batch: torch.Size) -> Chunks:
        """Returns how large a chunk of a (B, S, H) batch may be."""
        return self.cutting.of(batch, self.chunks)

    @property
    def functions(self) -> int:
        """How many functions the blocks have, all together."""
        return sum(function is not None for block in self.blocks for function in (block.f, block.g))

    def merged(self, x1: Any, x2: Any, dtype: torch.dtype) -> Tensor:
        """Returns w1 * x1 + w2 * x2, (B, S, H)."""
        if self.learned_merge is not None:
            w1, w2 = self.learned_merge.to(dtype)
            return w1 * self.streams.value(x1, dtype) + w2 * self.streams.value(x2, dtype)
        parts = [
            weight * self.streams.value(stream, dtype)
            for weight, stream in zip(self.coupling.merge, (x1, x2), strict=True)
            if weight
        ]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]
