"""How a batch is cut into what is computed at once.

Rows of a batch do not depend on each other, and neither do the tokens of a token-wise stage; chunks bound what is
alive at once. Forward and backward must cut alike, since dropout draws and the last bits of a matrix product depend on
the chunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from meft_runner.reversible.block import BlockInputs
from meft_runner.reversible.stages import Stage, Tensors, joined, stages_of

_USUAL_TOKENS = 1024
_USUAL_ELEMENTS = 2**21  # wide layers fill the machine with fewer tokens
_LONG = 4  # pieces of a row from which on a stage is computed again rather than its graph kept


@dataclass(frozen=True)
class Chunks:
    """How large a chunk of a batch may be.

    Attributes:
        rows: rows of the batch that are computed at once where tokens depend on each other.
        tokens: tokens that are computed at once where they do not.
    """

    rows: int
    tokens: int

    @classmethod
    def of(cls, batch: torch.Size, chunks: int | None) -> "Chunks":
        """Cuts a (B, S, H) batch into that many chunks, or as many as it has rows or tokens.

        With None, a chunk has about 1,024 tokens, fewer where H is above 2,048; smaller ones cost time (results/step).
        """
        rows, length, width = batch
        tokens = rows * length
        chunks = chunks or max(1, -(-tokens // min(_USUAL_TOKENS, max(1, _USUAL_ELEMENTS // width))))
        return cls(max(1, -(-rows // chunks)), max(1, -(-tokens // chunks)))

    def stages(self, function: nn.Module, length: int) -> Sequence[Stage]:
        """Returns the stages in which a function is computed on rows of so many tokens.

        In short rows the stages before the last one are one, whose graph is kept: that saves computing them again.
        In long rows they stay apart, so that of a token-wise one a piece's graph alone is alive.
        """
        stages = stages_of(function)
        if len(stages) <= 2 or length > (_LONG - 1) * self.tokens:
            return stages
        return (joined(stages[:-1], function), stages[-1])

    def row_places(self, stages: Sequence[Stage], rows: int) -> Sequence[slice]:
        """Returns the places of the rows that go through the stages at once: all where no stage needs whole rows."""
        return self.places(rows, rows if all(stage.tokenwise for stage in stages) else self.rows)

    def token_places(self, stage: Stage, batch: torch.Size) -> Sequence[slice]:
        """Returns a stage's pieces among the tokens of a (B, S, ...) batch: a single one where it needs whole rows."""
        tokens = batch[0] * batch[1]
        if not stage.tokenwise:
            return (slice(0, tokens),)
        pieces = max(1, -(-tokens // self.tokens))
        return self.places(tokens, -(-tokens // pieces))

    def places(self, count: int, size: int) -> Sequence[slice]:
        """Returns the places of what is computed at once, among `count` rows or tokens; where there are none, one."""
        return [slice(start, min(start + size, count)) for start in self.starts(max(count, 1), max(size, 1))]

    def starts(self, count: int, size: int) -> Sequence[int]:
        """Returns where they begin."""
        return range(0, count, size)

    def joined(self, pieces: Sequence[Tensors], batch: torch.Size) -> Tensors:
        """Returns a stage's results on all pieces of a (B, S, ...) batch, each (B, S, D)."""
        if len(pieces) == 1:
            return pieces[0]
        rows, length = batch[:2]
        return tuple(self.join(each, rows * length).view(rows, length, -1) for each in zip(*pieces, strict=True))

    def join(self, parts: Sequence[Tensor], count: int) -> Tensor:
        """Returns the results of all places, `count` rows or tokens, as one tensor."""
        return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def piece(tensor: Tensor, place: slice) -> Tensor:
    """Returns some tokens of a (B, S, D) tensor as (T, 1, D), a view where it is contiguous; or all as they are."""
    if place.stop - place.start == tensor.shape[0] * tensor.shape[1]:
        return tensor
    return tensor.reshape(-1, 1, tensor.shape[-1])[place]


def inputs_of_piece(stage: Stage, inputs: BlockInputs, place: slice, batch: torch.Size) -> BlockInputs:
    """Returns what a stage may read besides its tensors, at `place` among the tokens of a (B, S, ...) batch."""
    if not stage.tokenwise:
        return inputs
    rows, length = batch[:2]
    return inputs.tokens(None if place.stop - place.start == rows * length else place, rows)
