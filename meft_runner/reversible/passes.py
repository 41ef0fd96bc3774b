"""The two passes over a stack's blocks: forward, and backward by reversal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from meft_runner.reversible.block import BlockInputs
from meft_runner.reversible.chunks import Addition, Gradients
from meft_runner.reversible.coupling import Weights
from meft_runner.reversible.plan import Plan
from meft_runner.reversible.replay import random_state, set_random_state
from meft_runner.reversible.streams import ExactStreams, StoredStreams


@dataclass
class Trace:
    """What a forward pass leaves for its backward pass, beside the last two streams.

    The functions of a block are those that `ReversibleBlock` describes: F, then G where there is one.

    Attributes:
        checksums: for each block, an int64 sum over its input streams; empty where not exact.
        kept: for each function, what the inverse of its addition needs; None for nothing.
        random_states: for each function, the generator states before it ran.
    """

    checksums: list[Tensor] = field(default_factory=list)
    kept: list[Tensor | None] = field(default_factory=list)
    random_states: list[tuple[Tensor, ...]] = field(default_factory=list)

    def tensors(self) -> tuple[Tensor | None, ...]:
        """Returns everything as one tuple, as an autograd context saves it."""
        return (*self.checksums, *self.kept, *(state for states in self.random_states for state in states))

    @classmethod
    def from_tensors(cls, tensors: tuple[Tensor, ...], checksums: int, functions: int) -> Trace:
        """Undoes `tensors`, given how many checksums and functions there are."""
        kept, states = tensors[checksums : checksums + functions], tensors[checksums + functions :]
        each = len(states) // functions
        return cls(list(tensors[:checksums]), list(kept), [states[i * each : (i + 1) * each] for i in range(functions)])


class ForwardPass:
    """One forward pass; the same code for every arithmetic.

    Args:
        plan: the blocks and how they are run.
        inputs: what the blocks read besides their streams.
        trace: receives what a backward pass by reversal needs; None where there will be none.
    """

    def __init__(self, plan: Plan, inputs: BlockInputs, trace: Trace | None = None) -> None:
        self.plan = plan
        self.inputs = inputs
        self.trace = trace
        self.peaks: list[Tensor] = []

    def run(self, hidden: Tensor) -> tuple[Any, Any]:
        """Returns the last two streams of a pass that starts at `hidden`, (B, S, H).

        Raises:
            StreamOverflowError: a stream is not finite or leaves the grid.
        """
        plan = self.plan
        first, second = plan.coupling.halves
        hidden = hidden.contiguous()  # chunks of tokens are views
        self.peaks.append(_peak(hidden))
        x1: Any = plan.streams.start(hidden)
        x2 = x1
        for block in plan.blocks:
            if self.trace and isinstance(plan.streams, ExactStreams):
                self.trace.checksums.append(_checksum(x1, x2))
            x1 = self._half(block.f, x2, x1, first, hidden.dtype)
            x2 = self._half(block.g, x1, x2, second, hidden.dtype)
            if plan.coupling.swap:
                x1, x2 = x2, x1
        plan.monitor.check_peaks(plan.blocks, torch.stack(self.peaks), plan.coupling, plan.streams.limit)
        return x1, x2

    def _half(self, function: nn.Module | None, reads: Any, stream: Any, weights: Weights, dtype: torch.dtype) -> Any:
        """Returns scale * stream + mu * function(reads); without a function the stream itself."""
        if function is None:
            return stream
        value = self.plan.streams.value(reads, dtype)
        if self.trace:
            self.trace.random_states.append(random_state(value.device))
        increment = self.plan.cut(value.shape).evaluate(function, value, self.inputs)
        self.peaks.append(_peak(increment))
        result, kept = self.plan.streams.advance(stream, weights, increment)
        if self.trace:
            self.trace.kept.append(kept)
        return result


class ReversePass:
    """One backward pass by reversal: each function is evaluated once more, for its value and its gradients.

    Args:
        plan: the blocks and how they are run.
        inputs: what the forward pass read; their gradients are taken on copies in `inputs`.
        trace: what the forward pass left.
        dtype: the dtype in which the functions read the streams.

    Attributes:
        gradients: those of parameters and inputs.
    """

    def __init__(self, plan: Plan, inputs: BlockInputs, trace: Trace, dtype: torch.dtype) -> None:
        assert not isinstance(plan.streams, StoredStreams)
        self.plan = plan
        self.streams = plan.streams
        self.inputs = inputs.map(lambda tensor: tensor.detach().requires_grad_(tensor.requires_grad))
        self.trace = trace
        self.dtype = dtype
        self.gradients = Gradients()

    def run(self, x1: Tensor, x2: Tensor, grad: Tensor, wants_hidden: bool) -> Tensor | None:
        """Undoes every block, in place.

        Args:
            x1: the last first stream, (B, S, H); becomes the first one.
            x2: the last second stream, (B, S, H); likewise.
            grad: gradient of the merged output, (B, S, H).
            wants_hidden: whether the gradient of the first hidden states is wanted.

        Returns:
            That gradient, (B, S, H), or None.

        Raises:
            ReversalError: in strict mode, when an exact stream came back different.
        """
        first, second = self.plan.coupling.halves
        grad_1, grad_2 = self._merge_gradients(x1, x2, grad)
        drifts = []
        for index, block in reversed(list(enumerate(self.plan.blocks))):
            if self.plan.coupling.swap:
                x1, x2, grad_1, grad_2 = x2, x1, grad_2, grad_1
            # x1, x2 are now the block's outputs y1, y2; G is undone first, then F.
            self._undo(block.g, x1, x2, second, grad_2, grad_1)
            self._undo(block.f, x2, x1, first, grad_1, grad_2 if wants_hidden or index > 0 else None)
            if self.trace.checksums:
                drifts.append(_checksum(x1, x2) - self.trace.checksums[index])
        distance = self.streams.value(x1 - x2, torch.float32)
        self.plan.monitor.check_rebuilt(self.plan.names[::-1], distance, torch.stack(drifts) if drifts else None)
        return grad_1 + grad_2 if wants_hidden else None

    def _merge_gradients(self, x1: Tensor, x2: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the gradients of the last two streams, (B, S, H) each; learned merge weights get theirs."""
        learned = self.plan.learned_merge
        if learned is None:
            w1, w2 = self.plan.coupling.merge
            return (w1 * grad).contiguous(), (w2 * grad).contiguous()
        values = (self.streams.value(stream, self.dtype) for stream in (x1, x2))
        self.gradients.add(learned, torch.stack([(grad * value).sum().to(learned.dtype) for value in values]))
        w1, w2 = learned.detach().to(grad.dtype)
        return (w1 * grad).contiguous(), (w2 * grad).contiguous()

    def _undo(
        self,
        function: nn.Module | None,
        reads: Tensor,
        result: Tensor,
        weights: Weights,
        grad: Tensor,
        grad_reads: Tensor | None,
    ) -> None:
        """Undoes result = scale * x + mu * function(reads), in place.

        `result` becomes x and `grad` its gradient; `grad_reads` gets its share added. Functions are undone from the
        last one on, so that the end of the trace is theirs.
        """
        if function is None:
            return
        set_random_state(self.trace.random_states.pop(), reads.device)
        chunks = self.plan.cut(reads.shape)
        tensors = (reads, result, grad, grad_reads, self.trace.kept.pop())
        for place, (reads_chunk, result_chunk, grad_chunk, grad_reads_chunk, kept) in chunks.cut(function, *tensors):
            value = self.streams.value(reads_chunk, self.dtype)
            addition = Addition(self.streams, weights, result_chunk, kept)
            grad_increment = grad_chunk if weights.mu == 1 else grad_chunk * weights.mu
            through = chunks.differentiate(
                function, value, self.inputs, place, grad_increment, addition, self.gradients, grad_reads is not None
            )
            if grad_reads_chunk is not None:
                grad_reads_chunk.add_(through)
        if weights.scale != 1:
            grad.mul_(float(weights.scale))


def _checksum(x1: Tensor, x2: Tensor) -> Tensor:
    """Returns an int64 scalar that changes with (almost) any change of two integer streams."""
    return x1.sum(dtype=torch.int64) + 3 * x2.sum(dtype=torch.int64)


def _peak(values: Tensor) -> Tensor:
    """Returns the largest magnitude as a float32 scalar; NaN if any value is."""
    low, high = torch.aminmax(values.detach())
    return torch.maximum(-low, high).float()
