"""A block's function undone and differentiated, some rows and some tokens at a time.

Forward computed y = scale * x + mu * c_k, where c_k is the last stage's result (see `stages.py`). Backward has y, the
gradient of y, and what the function reads. It computes the stages up to the last one again; with the last one's result
it takes y back to x; and from the last stage to the first, with g_k = mu * dL/dy,

    dL/d(reads) += (ds_i / d(reads))^T g_i,    g_(i-1) = (ds_i / dc_(i-1))^T g_i

A stage that is computed in one piece keeps its graph for that. Others are computed once more, a piece at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from meft_runner.reversible.block import BlockInputs
from meft_runner.reversible.chunks import Chunks, inputs_of_piece, piece
from meft_runner.reversible.coupling import Weights
from meft_runner.reversible.gradients import Gradients, Graph, input_rows
from meft_runner.reversible.replay import RandomState, set_random_state
from meft_runner.reversible.stages import Stage, Tensors
from meft_runner.reversible.streams import ExactStreams, FloatStreams


@dataclass(frozen=True)
class Half:
    """One half of a block in backward, y = scale * x + mu * function(reads), or some rows or tokens of it.

    Attributes:
        streams: the arithmetic.
        weights: scale and mu.
        reads: (B, S, H), the stream that the function reads.
        result: (B, S, H), y; becomes x.
        kept: what the inverse needs besides, None for nothing.
        grad: (B, S, H), the gradient of y.
        grad_reads: (B, S, H), gets the function's share added; None where nothing asks for it.
        checksum: receives that of what came back of an exact stream: a list of one, the sum over the pieces.
    """

    streams: FloatStreams | ExactStreams
    weights: Weights
    reads: Tensor
    result: Tensor
    kept: Tensor | None
    grad: Tensor
    grad_reads: Tensor | None
    checksum: list[Tensor] = field(default_factory=list)

    def rows(self, place: slice) -> "Half":
        """Returns some rows, or all as they are."""
        if place == slice(0, len(self.reads)):
            return self
        return self._map(lambda tensor: tensor[place])

    def tokens(self, place: slice) -> "Half":
        """Returns some tokens, or all as they are."""
        return self._map(lambda tensor: piece(tensor, place))

    def undo_(self, increment: Tensor) -> Tensor:
        """Takes an increment out of the result, in place, and returns the increment's gradient."""
        found = self.streams.revert_(self.result, self.weights, increment, self.kept)
        if found is not None:
            self.checksum[:] = [sum(self.checksum, found)]
        return self.grad if self.weights.mu == 1 else self.grad * self.weights.mu

    def _map(self, part: Callable[[Tensor], Tensor]) -> "Half":
        kept, grad_reads = (None if tensor is None else part(tensor) for tensor in (self.kept, self.grad_reads))
        reads, result, grad = (part(tensor) for tensor in (self.reads, self.result, self.grad))
        return replace(self, reads=reads, result=result, kept=kept, grad=grad, grad_reads=grad_reads)


@dataclass
class _Step:
    """A stage on some rows, in backward.

    Attributes:
        stage: what is computed.
        reads_x: whether it is given the function's argument.
        places: its pieces among the rows' tokens.
        states: the generators as they were before each piece.
        carried: what the stage before it returned.
        graph: of its only piece, where that has been computed.
    """

    stage: Stage
    reads_x: bool
    places: Sequence[slice]
    states: Sequence[RandomState]
    carried: Tensors = ()
    graph: Graph | None = None


@dataclass(frozen=True)
class Differentiation:
    """Undoes and differentiates functions on one batch.

    Attributes:
        chunks: how forward cut the batch.
        inputs: what the functions read besides, of the whole batch.
        gradients: receives those of parameters and inputs.
        dtype: in which the functions read the streams.
    """

    chunks: Chunks
    inputs: BlockInputs
    gradients: Gradients
    dtype: torch.dtype

    def run(self, function: nn.Module, half: Half, states: list[RandomState]) -> None:
        """Undoes one half of a block, in place, and adds the gradients.

        Rows and tokens go in the opposite order of forward, as autograd would take them, which fixes the last bits of
        the sums.

        Args:
            function: as `stages_of` reads it.
            half: what forward made with it.
            states: the generators as they were before each evaluation of forward, in its order.
        """
        rows, length = half.reads.shape[:2]
        stages = self.chunks.stages(function, length)
        for place in reversed(self.chunks.row_places(stages, rows)):
            part = half.rows(place)
            steps = self._steps(stages, part.reads.shape, states)
            _Rows(self, part, place).run(steps)

    def _steps(self, stages: Sequence[Stage], batch: torch.Size, states: list[RandomState]) -> list[_Step]:
        """Returns the stages on a batch of rows with their generator states, which are the last of those left."""
        places = [self.chunks.token_places(stage, batch) for stage in stages]
        steps = []
        for index in reversed(range(len(stages))):
            first = len(states) - len(places[index])
            reads_x = index == 0 or stages[index].tokenwise
            steps.append(_Step(stages[index], reads_x, places[index], states[first:]))
            del states[first:]
        return steps[::-1]


class _Rows:
    """Some rows of a batch, on their way through one function's stages and back."""

    def __init__(self, whole: Differentiation, half: Half, place: slice) -> None:
        self.whole = whole
        self.half = half
        self.batch = half.reads.shape
        self.inputs, self.read = input_rows(whole.inputs, place)

    def run(self, steps: list[_Step]) -> None:
        """Computes the stages up to the last one, then undoes and differentiates all, the last one first."""
        for step, following in pairwise(steps):
            following.carried = self._computed(step)
        grads = self._differentiated(steps.pop(), None)
        while steps:  # a step's tensors are free once it is done
            grads = self._differentiated(steps.pop(), grads)

    def _computed(self, step: _Step) -> Tensors:
        """Returns a stage's results, each (rows, S, D); their graph stays in the step if there is one piece."""
        if len(step.places) == 1:
            with torch.enable_grad():
                step.graph = self._evaluated(step, 0)
            return tuple(output.detach().requires_grad_(output.requires_grad) for output in step.graph.outputs)
        with torch.no_grad():
            pieces = [self._evaluated(step, index).outputs for index in range(len(step.places))]
        joined = self.whole.chunks.joined(pieces, self.batch)
        return tuple(output.requires_grad_() for output in joined)

    def _differentiated(self, step: _Step, grads: Sequence[Tensor | None] | None) -> Sequence[Tensor | None]:
        """Returns the gradients of what a step was given by the one before it, each (rows, S, D).

        Args:
            step: it.
            grads: of its results; None for the last one, whose result is taken out of the stream.
        """
        if len(step.places) == 1:
            return self._piece(step, 0, grads)
        carried = [torch.empty_like(tensor) if tensor.requires_grad else None for tensor in step.carried]
        for index in reversed(range(len(step.places))):
            place = step.places[index]
            parts = None if grads is None else [None if grad is None else piece(grad, place) for grad in grads]
            for whole, part in zip(carried, self._piece(step, index, parts), strict=True):
                if whole is not None:
                    there = piece(whole, place)
                    there.zero_() if part is None else there.copy_(part)
        return carried

    def _piece(self, step: _Step, index: int, grads: Sequence[Tensor | None] | None) -> list[Tensor | None]:
        """Differentiates one piece of a step: see `_differentiated`."""
        half = self.half.tokens(step.places[index])
        with torch.enable_grad():
            graph, step.graph = step.graph or self._evaluated(step, index), None
        if grads is None:
            grads = [half.undo_(graph.outputs[0].detach())]
        grad_x, carried = self.whole.gradients.take(graph, grads)
        if grad_x is not None and half.grad_reads is not None:
            half.grad_reads.add_(grad_x)
        return carried

    def _evaluated(self, step: _Step, index: int) -> Graph:
        """Evaluates one piece of a step as forward did, on leaves."""
        stage, place = step.stage, step.places[index]
        half = self.half.tokens(place)
        x = None
        if step.reads_x:
            x = half.streams.value(half.reads, self.whole.dtype).detach().requires_grad_(half.grad_reads is not None)
        carried = tuple(piece(t, place).detach().requires_grad_(t.requires_grad) for t in step.carried)
        inputs = inputs_of_piece(stage, self.inputs, place, self.batch)
        set_random_state(step.states[index], half.reads.device)
        outputs = stage(carried if x is None else (x, *carried), inputs)
        return Graph(stage.module, outputs, x, carried, [] if stage.tokenwise else self.read)
