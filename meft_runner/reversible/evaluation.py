"""A block's function evaluated on a batch, some rows and some tokens at a time."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from meft_runner.reversible.block import BlockInputs
from meft_runner.reversible.chunks import Chunks, inputs_of_piece, piece
from meft_runner.reversible.stages import Stage, Tensors


class Evaluation:
    """Evaluates functions on one batch.

    Args:
        chunks: how the batch is cut.
        inputs: what the functions read besides.
        draw: called before each piece is computed, since random draws that follow are that piece's.
    """

    def __init__(self, chunks: Chunks, inputs: BlockInputs, draw: Callable[[], None]) -> None:
        self.chunks = chunks
        self.inputs = inputs
        self.draw = draw

    def run(self, function: nn.Module, batch: torch.Size, x: Callable[[slice], Tensor]) -> Tensor:
        """Returns a function's result, (B, S, H).

        Args:
            function: as `stages_of` reads it.
            batch: (B, S, H).
            x: makes the function's argument for some rows. Each stage that reads it asks for its own, so that where
                ordinary graphs are kept, stages add their gradients to the stream's one by one, as a reversal does.
        """
        stages = self.chunks.stages(function, batch[1])
        parts = [self._rows(stages, place, x) for place in self.chunks.row_places(stages, batch[0])]
        return self.chunks.join(parts, batch[0]).contiguous()  # pieces of tokens are views of it

    def _rows(self, stages: Sequence[Stage], place: slice, x: Callable[[slice], Tensor]) -> Tensor:
        inputs = self.inputs.rows(place)
        carried: Tensors = ()
        for stage in stages:
            read = (x(place),) if stage.tokenwise or stage is stages[0] else ()
            carried = self._stage(stage, (*read, *carried), inputs)
        return carried[0]

    def _stage(self, stage: Stage, tensors: Tensors, inputs: BlockInputs) -> Tensors:
        """Returns a stage's results on some rows, each (rows, S, D).

        Args:
            stage: what is computed.
            tensors: what it is given, (rows, S, D).
            inputs: of these rows.
        """
        batch = tensors[0].shape
        places = self.chunks.token_places(stage, batch)
        outputs = []
        for place in places:
            self.draw()
            given = tuple(piece(tensor, place) for tensor in tensors)
            outputs.append(stage(given, inputs_of_piece(stage, inputs, place, batch)))
        return self.chunks.joined(outputs, batch)
