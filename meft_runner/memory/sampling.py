"""Prediction of a batch that is computed in many chunks, from a few of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from meft_runner.reversible.chunks import Chunks

_FIRST, _LAST = 3, 2  # the sum of gradients is there from the second chunk on; the last chunk may be a smaller one
MOST_CHUNKS = _FIRST + _LAST


class SampledChunks(Chunks):
    """Computes the first chunks and the last ones: those between them need the same memory, and leave it alike.

    Where ordinary graphs are kept, each chunk's is, and all are computed.
    """

    def starts(self, count: int, size: int) -> Sequence[int]:
        """Returns where the chunks begin that are computed: of a batch of any size, few."""
        starts = super().starts(count, size)
        if torch.is_grad_enabled() or len(starts) <= MOST_CHUNKS:
            return starts
        return (*starts[:_FIRST], *starts[-_LAST:])

    def join(self, parts: Sequence[Tensor], count: int) -> Tensor:
        """Returns each chunk's result, and one tensor for the results of those that are not computed, as one tensor."""
        missing = count - sum(len(part) for part in parts)
        if missing:
            parts = [*parts, torch.empty((missing, *parts[0].shape[1:]), dtype=parts[0].dtype)]
        return super().join(parts, count)
