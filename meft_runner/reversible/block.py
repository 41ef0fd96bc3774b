"""One reversible block, and the inputs that every block of a stack shares."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields

from torch import Tensor, nn

_OF_TOKENS = "of_tokens"


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
    cos: Tensor | None = field(default=None, metadata={_OF_TOKENS: True})
    sin: Tensor | None = field(default=None, metadata={_OF_TOKENS: True})
    relative_positions: Tensor | None = None
    relative_embeddings: Tensor | None = None

    def tensors(self) -> tuple[Tensor | None, ...]:
        """Returns the fields in order."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def differentiable(self) -> list[Tensor]:
        """Returns those that require gradient, in order."""
        return [tensor for tensor in self.tensors() if tensor is not None and tensor.requires_grad]

    def map(self, function: Callable[[Tensor], Tensor]) -> "BlockInputs":
        """Returns a record with `function` applied to every tensor that is there."""
        return BlockInputs(*(None if tensor is None else function(tensor) for tensor in self.tensors()))

    def rows(self, place: slice) -> "BlockInputs":
        """Returns the record for some rows of the batch; a tensor shared by all rows stays whole."""
        return self.map(lambda tensor: rows_of(tensor, place))

    def tokens(self, place: slice | None, rows: int) -> "BlockInputs":
        """Returns those that belong to tokens, for some tokens of a batch of so many rows.

        Args:
            place: among the tokens of all rows; None for all of them.
            rows: B.

        Returns:
            The record with (T, 1, D) tensors, or, for all tokens, with those that are there.

        Raises:
            ValueError: one of them requires gradient, which pieces of tokens do not add up.
        """
        own = {each.name: getattr(self, each.name) for each in fields(self) if _OF_TOKENS in each.metadata}
        for name, tensor in own.items():
            if tensor is not None and tensor.requires_grad:
                raise ValueError(
                    f"block inputs: {name} requires a gradient, but what belongs to tokens cannot be trained"
                )
        if place is not None:
            own = {name: None if t is None else _tokens_of(t, place, rows) for name, t in own.items()}
        return BlockInputs(**own)


def rows_of(tensor: Tensor, place: slice) -> Tensor:
    """Returns some rows of a tensor of block inputs: all of it where it is shared by all rows.

    What requires gradient gets it through a node of its own, so that an evaluation's gradients are summed first.
    """
    if tensor.shape[0] == 1:
        return tensor.view_as(tensor) if tensor.requires_grad else tensor
    return tensor[place]


def _tokens_of(tensor: Tensor, place: slice, rows: int) -> Tensor:
    return tensor.expand(rows, -1, -1).reshape(-1, 1, tensor.shape[-1])[place]


class TokenwiseModule(nn.Module):
    """A function in which no token of the output depends on another token of the input, nor on block inputs.

    It may be given any chunk of the tokens, as (T, 1, H).
    """


class ReversibleBlock(nn.Module):
    """The two functions of a block, one for each of its two halves.

    The first half changes the first stream, y1 = scale_1 * x1 + mu_1 * F(x2); the second half, from its result, the
    second stream, y2 = scale_2 * x2 + mu_2 * G(y1). Backward undoes the second half before the first.

    Args:
        f: module called as f(x, inputs) -> increment, all (B, S, H), or one with a method `stages` (see `stages.py`).
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
