"""One reversible block, and the inputs that every block of a stack shares."""

from collections.abc import Callable
from dataclasses import dataclass, fields

from torch import Tensor, nn


@dataclass(frozen=True)
class BlockInputs:
    """What a block reads besides its stream; the same record in forward and in backward.

    A tensor that requires gradient gets it, summed over the blocks.

    Attributes:
        attention_mask: (B or 1, 1 or heads, 1 or S, S), additive or boolean, as the layer takes it.
        encoder_states: (B, T, H), what a decoder block attends to.
        encoder_mask: (B or 1, 1 or heads, 1 or S, T), the mask of that attention.
        cos: (B or 1, S, D), what rotates queries and keys by their positions; D is a head's size.
        sin: (B or 1, S, D), likewise.
        relative_positions: (1, S, S), the place of each query and key's distance in `relative_embeddings`.
        relative_embeddings: (1, R, H), the vectors of R distances between tokens.
    """

    attention_mask: Tensor | None = None
    encoder_states: Tensor | None = None
    encoder_mask: Tensor | None = None
    cos: Tensor | None = None
    sin: Tensor | None = None
    relative_positions: Tensor | None = None
    relative_embeddings: Tensor | None = None

    def tensors(self) -> tuple[Tensor | None, ...]:
        """Returns the fields in order."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def map(self, function: Callable[[Tensor], Tensor]) -> "BlockInputs":
        """Returns a record with `function` applied to every tensor that is there."""
        return BlockInputs(*(None if tensor is None else function(tensor) for tensor in self.tensors()))

    def rows(self, place: slice) -> "BlockInputs":
        """Returns the record for some rows of the batch; a tensor shared by all rows stays whole."""
        return self.map(lambda tensor: rows_of(tensor, place))

    def leaves(self, place: slice) -> "BlockInputs":
        """Returns the record for some rows, each tensor a leaf that requires gradient where the whole one does."""
        return self.map(lambda tensor: rows_of(tensor, place).detach().requires_grad_(tensor.requires_grad))


def rows_of(tensor: Tensor, place: slice) -> Tensor:
    """Returns some rows of a tensor of block inputs: all of it where it is shared by all rows."""
    return tensor if tensor.shape[0] == 1 else tensor[place]


class TokenwiseModule(nn.Module):
    """A function in which no token of the output depends on another token of the input, nor on block inputs.

    It may be given any chunk of the tokens, as (T, 1, H).
    """


class Composed(nn.Module):
    """A function of two stages, the second of which looks at each token by itself.

    The second stage is differentiated a chunk of the tokens at a time, while only the first one's graph is kept.

    Args:
        first: module called as first(x, inputs).
        second: module called as second(x, inputs).
    """

    def __init__(self, first: nn.Module, second: TokenwiseModule) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x: Tensor, inputs: BlockInputs) -> Tensor:
        """Returns second(first(x)), (B, S, H)."""
        return self.second(self.first(x, inputs), inputs)


class ReversibleBlock(nn.Module):
    """The two functions of a block, one for each of its two halves.

    The first half changes the first stream, y1 = scale_1 * x1 + mu_1 * F(x2); the second half, from its result, the
    second stream, y2 = scale_2 * x2 + mu_2 * G(y1). Backward undoes the second half before the first.

    Args:
        f: module called as f(x, inputs) -> increment, all (B, S, H).
        g: likewise; None for a second half that leaves its stream alone.
        name: how errors call the block, for instance "layer 3".
    """

    f: nn.Module
    g: nn.Module | None
    name: str

    def __init__(self, f: nn.Module, g: nn.Module | None, name: str) -> None:
        super().__init__()
        self.f = f
        self.g = g
        self.name = name
