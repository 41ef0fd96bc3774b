"""One reversible block, and the inputs that every block of a stack shares."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class BlockInputs:
    """What a block reads besides its stream; the same record in forward and in backward.

    A tensor that requires gradient gets it, summed over the blocks.

    Attributes:
        attention_mask: (B or 1, 1 or heads, 1 or S, S), additive or boolean, as the layer takes it.
        encoder_states: (B, T, H), what a decoder block attends to.
        encoder_mask: (B or 1, 1 or heads, 1 or S, T), the mask of that attention.
    """

    attention_mask: Tensor | None = None
    encoder_states: Tensor | None = None
    encoder_mask: Tensor | None = None

    def tensors(self) -> tuple[Tensor | None, ...]:
        """Returns the fields in order."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def map(self, function: Callable[[Tensor], Tensor]) -> "BlockInputs":
        """Returns a record with `function` applied to every tensor that is there."""
        return BlockInputs(*(None if tensor is None else function(tensor) for tensor in self.tensors()))

    def rows(self, part: slice) -> "BlockInputs":
        """Returns the record for some rows of the batch; a tensor shared by all rows stays whole."""
        return self.map(lambda tensor: tensor if tensor.shape[0] == 1 else tensor[part])


class ReversibleBlock(nn.Module):
    """The two functions of a block: y1 = scale_1 * x1 + F(x2), y2 = scale_2 * x2 + G(y1).

    Args:
        f: module called as f(x, inputs) -> increment, all (B, S, H).
        g: likewise.
        name: how errors call the block, for instance "layer 3".
    """

    f: nn.Module
    g: nn.Module
    name: str

    def __init__(self, f: nn.Module, g: nn.Module, name: str) -> None:
        super().__init__()
        self.f = f
        self.g = g
        self.name = name


def row_parts(rows: int, chunks: int) -> list[slice]:
    """Returns the parts in which a batch of `rows` rows is computed: at most `chunks`, of equal size."""
    size = -(-rows // chunks)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def evaluate(function: nn.Module, x: Tensor, inputs: BlockInputs, chunks: int) -> Tensor:
    """Returns function(x, inputs), (B, S, H), computed a few rows at a time.

    Rows do not depend on each other; chunks bound what is alive at once. Forward and backward must
    chunk alike, since dropout draws and the last bits of a matrix product depend on the chunk.
    """
    return _joined([function(x[part], inputs.rows(part)) for part in row_parts(x.shape[0], chunks)])


def differentiate(
    function: nn.Module,
    x: Tensor,
    inputs: BlockInputs,
    targets: Sequence[Tensor],
    grad_output: Tensor,
    chunks: int,
    wants_x: bool = True,
) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
    """Computes a function and its gradients from one evaluation, one chunk's graph alive at a time.

    Args:
        function: the module to run.
        x: its first argument, (B, S, H).
        inputs: its second argument.
        targets: parameters and differentiable inputs whose gradients are wanted.
        grad_output: gradient of the output, (B, S, H).
        chunks: into how many parts the batch is split, as in `evaluate`.
        wants_x: whether the gradient of x is wanted.

    Returns:
        The output and the gradient of x (None where not wanted), both (B, S, H), and the gradient of
        each target, None where it has no part in the output.
    """
    outputs, grads_x = [], []
    sums: list[Tensor | None] = [None] * len(targets)
    for part in row_parts(x.shape[0], chunks):
        leaf = x[part].detach().requires_grad_(wants_x)
        with torch.enable_grad():
            output = function(leaf, inputs.rows(part))
        outputs.append(output.detach())
        wanted = (leaf, *targets) if wants_x else tuple(targets)
        if wanted:
            grads = list(torch.autograd.grad(output, wanted, grad_output[part].to(output.dtype), allow_unused=True))
            if wants_x:
                grad_x, *grads = grads
                grads_x.append(torch.zeros_like(leaf) if grad_x is None else grad_x)
            sums = [add(total, grad) for total, grad in zip(sums, grads, strict=True)]
    return _joined(outputs), _joined(grads_x) if wants_x else None, sums


def add(total: Tensor | None, grad: Tensor | None) -> Tensor | None:
    """Returns the sum of two gradients, where None stands for zero."""
    if total is None or grad is None:
        return grad if total is None else total
    return total + grad


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
