"""Prediction of a batch that is computed in many chunks, from a few of them."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from meft_runner.reversible import BlockInputs
from meft_runner.reversible.chunks import Chunks

_FIRST, _LAST = 3, 2  # the sum of gradients is there from the second chunk on; the last chunk may be a smaller one
MOST_CHUNKS = _FIRST + _LAST


class SampledChunks(Chunks):
    """Computes the first chunks and the last ones: those between them need the same memory, and leave it alike.

    Where ordinary graphs are kept, each chunk's is, and all are computed.
    """

    def places(self, count: int, size: int) -> Iterator[slice]:
        """Yields the places of chunks that are computed."""
        starts = range(0, count, size)
        if torch.is_grad_enabled() or len(starts) <= MOST_CHUNKS:
            return super().places(count, size)
        return (slice(start, start + size) for start in (*starts[:_FIRST], *starts[-_LAST:]))

    def outputs(self, function: nn.Module, x: Tensor, inputs: BlockInputs) -> Iterator[Tensor]:
        """Yields each chunk's output, and one tensor for the outputs of those that are not computed."""
        places = [place for place, _ in self.cut(function, x)]
        following = [place.start for place in places[1:]] + [places[-1].stop]
        for place, start, output in zip(places, following, super().outputs(function, x, inputs), strict=True):
            yield output
            if start > place.stop:
                yield torch.empty((start - place.stop, *output.shape[1:]), dtype=output.dtype)
