"""The one autograd function of a reversible stack.

Forward keeps the two last streams, the remainders of the integer divisions and the random states.
Backward walks the blocks from the top; each of their functions is evaluated once more, and that one
evaluation gives both the increment that undoes the block and the gradients.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from meft_runner.reversible.block import BlockInputs, ReversibleBlock, add, differentiate
from meft_runner.reversible.replay import AutocastState, random_state_kept, set_random_state

if TYPE_CHECKING:
    from meft_runner.reversible.stack import ReversibleStack

_INPUTS = len(BlockInputs().tensors())


@dataclass
class Trace:
    """What a forward pass leaves for its backward pass, beside the last two streams.

    Attributes:
        random_states: for each half block, the generator states before its function ran.
        kept: for each half block, what the inverse of its addition needs; None for nothing.
        checksums: for each block, an int64 sum over its input streams; None where not exact.
    """

    random_states: list[tuple[Tensor, ...]] = field(default_factory=list)
    kept: list[Tensor | None] = field(default_factory=list)
    checksums: list[Tensor] | Tensor | None = None


class ReversibleFunction(torch.autograd.Function):
    """Runs a stack without a graph and differentiates it by reversal.

    Its tensor inputs are the first hidden states, the fields of the block inputs and the trainable
    parameters; it returns a gradient for each of them that requires one.
    """

    @staticmethod
    def forward(ctx: Any, stack: ReversibleStack, hidden: Tensor, *tensors: Tensor | None) -> Tensor:
        ctx.stack, ctx.dtype, ctx.arguments = stack, hidden.dtype, len(tensors)
        ctx.autocast = AutocastState.current(hidden.device)
        trace = Trace(checksums=[] if stack.mode == "exact" else None)
        with ctx.autocast.entered():
            streams = stack.run(hidden, BlockInputs(*tensors[:_INPUTS]), trace)
            merged = stack.merged(streams, hidden.dtype)
        ctx.generators = len(trace.random_states[0])
        states = [tensor for state in trace.random_states for tensor in state]
        checksums = torch.stack(trace.checksums) if trace.checksums else None
        ctx.save_for_backward(*tensors, *streams, checksums, *trace.kept, *states)
        return merged

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        stack, generators = ctx.stack, ctx.generators
        arguments, saved = ctx.saved_tensors[: ctx.arguments], ctx.saved_tensors[ctx.arguments :]
        x1, x2, checksums, *rest = saved
        kept, states = rest[: 2 * len(stack.blocks)], rest[2 * len(stack.blocks) :]
        trace = Trace([states[i : i + generators] for i in range(0, len(states), generators)], kept, checksums)
        reversal = _Reversal(stack, trace, BlockInputs(*arguments[:_INPUTS]), ctx.dtype)
        with random_state_kept(x1.device), ctx.autocast.entered():
            grad_hidden = reversal.run(x1, x2, grads[0], wants_hidden=ctx.needs_input_grad[1])
        leaves = (*reversal.inputs.tensors(), *stack.trainable_parameters())
        return None, grad_hidden, *(reversal.sums.get(id(leaf)) for leaf in leaves)


class _Reversal:
    """One backward pass; `sums` collects gradients by the identity of the tensor they belong to."""

    def __init__(self, stack: ReversibleStack, trace: Trace, inputs: BlockInputs, dtype: torch.dtype) -> None:
        self.stack = stack
        self.trace = trace
        self.inputs = inputs.map(lambda tensor: tensor.detach().requires_grad_(tensor.requires_grad))
        self.dtype = dtype
        self.sums: dict[int, Tensor | None] = {}

    def run(self, x1: Tensor, x2: Tensor, grad: Tensor, wants_hidden: bool) -> Tensor | None:
        """Undoes every block and returns the gradient of the first hidden states, (B, S, H)."""
        coupling = self.stack.coupling
        scale_1, scale_2 = float(coupling.scale_1), float(coupling.scale_2)
        grad_1, grad_2 = (weight * grad for weight in coupling.merge)
        drifts = []
        for index in reversed(range(len(self.stack.blocks))):
            block = self.stack.blocks[index]
            if coupling.swap:
                x1, x2, grad_1, grad_2 = x2, x1, grad_2, grad_1
            # Here x1, x2 are the block's outputs y1, y2; each line below undoes one of its equations.
            x2, through_g = self._undo(block.g, x1, x2, coupling.scale_2, 2 * index + 1, grad_2)
            grad_1, grad_2 = add(grad_1, through_g), scale_2 * grad_2
            wants_x2 = wants_hidden or index > 0
            x1, through_f = self._undo(block.f, x2, x1, coupling.scale_1, 2 * index, grad_1, wants_x2)
            grad_1, grad_2 = scale_1 * grad_1, add(grad_2, through_f)
            if self.trace.checksums is not None:
                drifts.append(checksum(x1, x2) - self.trace.checksums[index])
        distance = self.stack.streams.value(x1 - x2, torch.float32)
        self.stack.monitor.check_rebuilt(
            self.stack.names, distance, torch.stack(drifts).flip(0) if drifts else None
        )
        return grad_1 + grad_2 if wants_hidden else None

    def _undo(
        self,
        function: nn.Module,
        reads: Tensor,
        output: Tensor,
        scale: Fraction,
        half: int,
        grad: Tensor,
        wants_reads: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Undoes output = scale * x + function(reads); returns x and the gradient of `reads`."""
        streams = self.stack.streams
        set_random_state(self.trace.random_states[half], reads.device)
        targets = [t for t in (*self.inputs.tensors(), *function.parameters()) if t is not None and t.requires_grad]
        increment, grad_reads, grads = differentiate(
            function, streams.value(reads, self.dtype), self.inputs, targets, grad, self.stack.chunks, wants_reads
        )
        for target, gradient in zip(targets, grads, strict=True):
            self.sums[id(target)] = add(self.sums.get(id(target)), gradient)
        return streams.revert(output, scale, increment, self.trace.kept[half]), grad_reads


def checksum(x1: Tensor, x2: Tensor) -> Tensor:
    """Returns an int64 scalar that changes with (almost) any change of two integer streams."""
    return x1.sum(dtype=torch.int64) + 3 * x2.sum(dtype=torch.int64)
