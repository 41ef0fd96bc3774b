"""A block's function computed and differentiated a chunk of the batch at a time.

Rows of a batch do not depend on each other, and neither do the tokens of a token-wise function; chunks
bound what is alive at once, without extra arithmetic. Forward and backward must cut alike, since dropout
draws and the last bits of a matrix product depend on the chunk.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from meft_runner.reversible.block import BlockInputs, Composed, TokenwiseModule, rows_of
from meft_runner.reversible.coupling import Weights
from meft_runner.reversible.streams import ExactStreams, FloatStreams

_USUAL_TOKENS = 1024


class InputRows(NamedTuple):
    """Some rows of a differentiable block input, as one chunk reads them.

    Attributes:
        whole: the input, of the whole batch.
        place: of the rows.
        leaf: the rows, a leaf of the chunk's graph.
    """

    whole: Tensor
    place: slice
    leaf: Tensor


@dataclass
class Gradients:
    """Sums of gradients, by the tensor that they belong to."""

    sums: dict[int, Tensor] = field(default_factory=dict)
    _trained: dict[int, list[nn.Parameter]] = field(default_factory=dict)

    def take(
        self, function: nn.Module, output: Tensor, grad_output: Tensor, x: Tensor, read: Sequence[InputRows]
    ) -> Tensor | None:
        """Differentiates one evaluation of a function, and adds what its parameters and inputs get.

        Args:
            function: what was evaluated.
            output: its output, with its graph.
            grad_output: the output's gradient.
            x: its first argument, a leaf.
            read: the differentiable inputs that it read besides.

        Returns:
            The gradient of x, None where x requires none.
        """
        parameters = self._trained_by(function)
        wanted = [*([x] if x.requires_grad else []), *(rows.leaf for rows in read), *parameters]
        if not wanted:
            return None
        with torch.autocast(output.device.type, enabled=False):  # backward runs in the dtypes of forward
            found = list(torch.autograd.grad(output, wanted, grad_output.to(output.dtype), allow_unused=True))
        grad_x = found.pop(0) if x.requires_grad else None
        for rows in read:
            self._add_rows(rows, found.pop(0))
        for parameter, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                self.add(parameter, gradient)
        return torch.zeros_like(x) if x.requires_grad and grad_x is None else grad_x

    def add(self, tensor: Tensor, gradient: Tensor) -> None:
        """Adds a gradient to a tensor's sum."""
        total = self.sums.get(id(tensor))
        self.sums[id(tensor)] = gradient if total is None else total + gradient

    def _trained_by(self, function: nn.Module) -> list[nn.Parameter]:
        """Returns a function's trainable parameters; to look for them costs as much time as a small chunk."""
        if id(function) not in self._trained:
            self._trained[id(function)] = [p for p in function.parameters() if p.requires_grad]
        return self._trained[id(function)]

    def _add_rows(self, rows: InputRows, gradient: Tensor | None) -> None:
        if gradient is None:
            return
        if id(rows.whole) not in self.sums:
            self.sums[id(rows.whole)] = torch.zeros_like(rows.whole)
        rows_of(self.sums[id(rows.whole)], rows.place).add_(gradient)

    def get(self, tensor: Tensor | None) -> Tensor | None:
        """Returns a tensor's sum, None where it got no gradient."""
        return self.sums.get(id(tensor))


@dataclass(frozen=True)
class Addition:
    """A stream with an increment added to it: result = scale * x + mu * increment.

    Attributes:
        streams: the arithmetic.
        weights: scale and mu.
        result: (B, S, H), becomes x.
        kept: what the inverse needs besides, None for nothing.
    """

    streams: FloatStreams | ExactStreams
    weights: Weights
    result: Tensor
    kept: Tensor | None

    def undo_(self, increment: Tensor) -> None:
        """Takes the increment out again, in place."""
        self.streams.revert_(self.result, self.weights, increment, self.kept)


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

        With None, a chunk has about 1,024 tokens; smaller ones cost time (results/step).
        """
        rows, tokens = batch[0], batch[0] * batch[1]
        chunks = chunks or -(-tokens // _USUAL_TOKENS)
        return cls(-(-rows // chunks), -(-tokens // chunks))

    def cut(self, function: nn.Module, *tensors: Tensor | None) -> Iterator[tuple[slice, tuple[Any, ...]]]:
        """Cuts (B, S, H) tensors of one batch alike into what `function` may be given at once.

        Yields:
            The chunk's place, and views of the tensors there: (rows, S, H), or (tokens, 1, H) where the
            function is token-wise. None stays None.
        """
        size = self.rows
        if isinstance(function, TokenwiseModule):
            size, tensors = self.tokens, tuple(None if t is None else t.view(-1, 1, t.shape[-1]) for t in tensors)
        count = next(len(tensor) for tensor in tensors if tensor is not None)
        for place in self.places(count, size):
            yield place, tuple(None if tensor is None else tensor[place] for tensor in tensors)

    def places(self, count: int, size: int) -> Iterator[slice]:
        """Yields the places of what is computed at once, among `count` rows or tokens."""
        return (slice(start, start + size) for start in range(0, count, size))

    def evaluate(self, function: nn.Module, x: Tensor, inputs: BlockInputs) -> Tensor:
        """Returns function(x, inputs), (B, S, H)."""
        outputs = list(self.outputs(function, x, inputs))
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).view(x.shape)

    def outputs(self, function: nn.Module, x: Tensor, inputs: BlockInputs) -> Iterator[Tensor]:
        """Yields what `function` returns on each chunk, in order."""
        for place, (chunk,) in self.cut(function, x):
            if isinstance(function, Composed):
                middle = function.first(chunk, inputs.rows(place))
                yield self.evaluate(function.second, middle, inputs)
            else:
                yield function(chunk, _inputs_for(function, inputs).rows(place))

    def differentiate(
        self,
        function: nn.Module,
        x: Tensor,
        inputs: BlockInputs,
        place: slice,
        grad_output: Tensor,
        addition: Addition,
        gradients: Gradients,
        wants_x: bool = True,
    ) -> Tensor | None:
        """Computes a function on one chunk, undoes its addition, and takes its gradients, from one evaluation.

        Args:
            function: the module to run.
            x: its first argument, (B, S, H), a chunk as `cut` returns it.
            inputs: its second argument, of the whole batch.
            place: of the chunk.
            grad_output: gradient of the output, (B, S, H).
            addition: what the output was added to, at the same place.
            gradients: receives those of the parameters and of differentiable inputs.
            wants_x: whether the gradient of x is wanted.

        Returns:
            The gradient of x, (B, S, H), None where not wanted.
        """
        inputs = _inputs_for(function, inputs)
        leaf, leaves = x.detach().requires_grad_(wants_x), inputs.leaves(place)
        stage = function.first if isinstance(function, Composed) else function
        with torch.enable_grad():
            output = stage(leaf, leaves)
        if isinstance(function, Composed):
            grad_output = self._through_second(function.second, output.detach(), grad_output, addition, gradients)
        else:
            addition.undo_(output.detach())
        pairs = zip(inputs.tensors(), leaves.tensors(), strict=True)
        both = [(whole, rows) for whole, rows in pairs if whole is not None and rows is not None]
        read = [InputRows(whole, place, rows) for whole, rows in both if rows.requires_grad]
        return gradients.take(stage, output, grad_output, leaf, read)

    def _through_second(
        self, function: TokenwiseModule, x: Tensor, grad_output: Tensor, addition: Addition, gradients: Gradients
    ) -> Tensor:
        """Differentiates the token-wise stage of a composed function, one chunk's graph alive at a time."""
        grad_x = torch.empty_like(x)
        for place, views in self.cut(function, x, grad_output, grad_x, addition.result, addition.kept):
            x_chunk, grad_chunk, grad_x_chunk, result, kept = views
            here = replace(addition, result=result, kept=kept)
            grad_x_chunk.copy_(self.differentiate(function, x_chunk, BlockInputs(), place, grad_chunk, here, gradients))
        return grad_x


def _inputs_for(function: nn.Module, inputs: BlockInputs) -> BlockInputs:
    """Returns what a function reads besides its first argument: nothing where it is token-wise."""
    return BlockInputs() if isinstance(function, TokenwiseModule) else inputs
