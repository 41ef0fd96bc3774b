"""The two passes over a stack's blocks: forward, and backward by reversal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from meft_runner.reversible.arithmetic import ends
from meft_runner.reversible.block import BlockInputs
from meft_runner.reversible.border import gradients_handed_back
from meft_runner.reversible.coupling import Weights
from meft_runner.reversible.differentiation import Differentiation, Half
from meft_runner.reversible.evaluation import Evaluation
from meft_runner.reversible.gradients import Gradients
from meft_runner.reversible.monitor import fingerprint
from meft_runner.reversible.offload import FromHost, ToHost
from meft_runner.reversible.plan import Plan
from meft_runner.reversible.replay import RandomState, random_state
from meft_runner.reversible.streams import ExactStreams, StoredStreams


@dataclass
class Trace:
    """What a forward pass leaves for its backward pass, beside the last two streams.

    The functions of a block are those that `ReversibleBlock` describes: F, then G where there is one.

    Attributes:
        checksums: (functions,), int32, of the stream that each function changed, before; None where not exact.
        kept: for each function, what the inverse of its addition needs; None for nothing.
        random_states: for each evaluation of a piece of a function, the generators as they were before it.
        last: (2,), int32, fingerprints of the last two streams.
    """

    checksums: Tensor | None = None
    kept: list[Tensor | None] = field(default_factory=list)
    random_states: list[RandomState] = field(default_factory=list)
    last: Tensor | None = None

    def draw(self, device: torch.device) -> None:
        """Keeps the generators' states before a piece is computed, which may draw from them."""
        self.random_states.append(random_state(device))


class ForwardPass:
    """One forward pass; the same code for every arithmetic.

    Args:
        plan: the blocks and how they are run.
        hidden: (B, S, H), where both streams start.
        inputs: what the blocks read besides their streams.
        trace: receives what a backward pass by reversal needs; None where there will be none.
        host: takes what is kept to the host; None where it stays.
    """

    def __init__(
        self, plan: Plan, hidden: Tensor, inputs: BlockInputs, trace: Trace | None = None, host: ToHost | None = None
    ) -> None:
        self.plan = plan
        self.hidden = hidden.contiguous()  # pieces of tokens are views
        draw = partial(trace.draw, hidden.device) if trace else _nothing
        self.evaluation = Evaluation(plan.cut(hidden.shape), inputs, draw)
        self.trace = trace
        self.host = host
        self._ends: list[Tensor] = []
        self._checksums: list[Tensor] = []
        # Where the whole batch is computed at once, a stream's value serves every function that reads it.
        self._at_once = self.evaluation.chunks.tokens >= hidden.shape[0] * hidden.shape[1]
        self._latest: tuple[Any, Tensor | None] = (None, None)  # a stream and its value

    def run(self, handed: tuple[Any, Any] | None = None) -> tuple[Any, Any]:
        """Returns the last two streams.

        Args:
            handed: the streams that blocks below have handed over, in place of a start at the hidden states.

        Raises:
            StreamOverflowError: a stream is not finite or leaves the grid.
        """
        plan = self.plan
        first, second = plan.coupling.halves
        x1: Any
        x2: Any
        x1, x2 = handed or plan.streams.start(self.hidden)
        self._ends += self._first_ends(x1, x2) if handed else ends(self.hidden)
        for block in plan.blocks:
            x1 = self._half(block.f, x2, x1, first, plan.coupling.swap or block.g is not None)
            x2 = self._half(block.g, x1, x2, second, not plan.coupling.swap)
            if plan.coupling.swap:
                x1, x2 = x2, x1
        if self.trace and self._checksums:
            self.trace.checksums = torch.stack(self._checksums)
        if self.trace:
            self.trace.last = _fingerprints(x1, x2)
        peaks = torch.stack(self._ends).double().view(-1, 2).abs().amax(1)
        plan.monitor.check_peaks(plan.blocks, peaks, plan.coupling, plan.streams)
        return x1, x2

    def _first_ends(self, x1: Any, x2: Any) -> tuple[Tensor, Tensor]:
        """Returns the smallest and the largest value of two streams, not rounded to the dtype of the hidden states."""
        streams = self.plan.streams
        if isinstance(streams, StoredStreams):
            found = [streams.exact.value(end, torch.float64) for x in (x1, x2) for end in ends(x.integers)]
        else:
            found = [end for x in (x1, x2) for end in ends(x.detach())]
        return torch.minimum(found[0], found[2]), torch.maximum(found[1], found[3])

    def _half(self, function: nn.Module | None, reads: Any, stream: Any, weights: Weights, read_next: bool) -> Any:
        """Returns scale * stream + mu * function(reads); without a function the stream itself.

        Args:
            function: F or G.
            reads: the stream that it reads.
            stream: the one that it changes.
            weights: scale and mu.
            read_next: whether the next function reads what is returned.
        """
        if function is None:
            return stream
        streams: Any = self.plan.streams
        increment = self.evaluation.run(function, self.hidden.shape, self._reader(reads))
        value_dtype = self.hidden.dtype if read_next and self._at_once else None
        made = streams.advance(stream, weights, increment, value_dtype)
        self._ends += made.ends
        if made.value is not None:
            self._latest = (made.result, made.value)
        if self.trace:
            kept = made.kept if made.kept is None or self.host is None else self.host.put(made.kept)
            self.trace.kept.append(kept)
            if isinstance(streams, ExactStreams):
                self._checksums.append(streams.checksum(stream) if made.checksum is None else made.checksum)
        return made.result

    def _reader(self, reads: Any) -> Callable[[slice], Tensor]:
        """Returns what makes a function's argument, some rows of a stream in floating point."""
        streams: Any = self.plan.streams
        dtype = self.hidden.dtype
        if not self._at_once or isinstance(streams, StoredStreams):  # whose readers each have a gradient of their own
            return lambda place: streams.value(streams.rows(reads, place), dtype)
        if self._latest[0] is not reads:
            self._latest = (reads, streams.value(reads, dtype))
        value = self._latest[1]
        assert value is not None
        return lambda place: value[place]


class ReversePass:
    """One backward pass by reversal: each function is evaluated once more, for its value and its gradients.

    Args:
        plan: the blocks and how they are run.
        inputs: what the forward pass read; their gradients are taken on copies in `inputs`.
        trace: what the forward pass left.
        dtype: the dtype in which the functions read the streams.
        host: brings back what was kept; None where it has stayed.

    Attributes:
        gradients: those of parameters and inputs.
    """

    def __init__(
        self, plan: Plan, inputs: BlockInputs, trace: Trace, dtype: torch.dtype, host: FromHost | None = None
    ) -> None:
        assert not isinstance(plan.streams, StoredStreams)
        self.plan = plan
        self.streams = plan.streams
        self.inputs = inputs.map(lambda tensor: tensor.detach().requires_grad_(tensor.requires_grad))
        self.trace = trace
        self.dtype = dtype
        self.host = host
        self.gradients = Gradients(checking=plan.monitor.checked_steps == 0)
        self._checksums: list[Tensor] = []

    def run(self, x1: Tensor, x2: Tensor, grads: Sequence[Tensor | None], wants_hidden: bool) -> Tensor | None:
        """Undoes every block, in place.

        Args:
            x1: the last first stream, (B, S, H); becomes the first one.
            x2: the last second stream, (B, S, H); likewise.
            grads: of what the blocks have handed over, None where there is none; those of the streams are changed.
            wants_hidden: whether the gradient of the first hidden states is wanted.

        Returns:
            That gradient, (B, S, H), or None.

        Raises:
            ReversalError: in strict mode, when an exact stream came back different.
        """
        first, second = self.plan.coupling.halves
        assert self.trace.last is not None
        moved = _fingerprints(x1, x2).ne(self.trace.last)
        grad_1, grad_2 = gradients_handed_back(grads, x1, self.dtype, self.inputs, self.gradients)
        for index, block in reversed(list(enumerate(self.plan.blocks))):
            if self.plan.coupling.swap:
                x1, x2, grad_1, grad_2 = x2, x1, grad_2, grad_1
            # x1, x2 are now the block's outputs y1, y2; G is undone first, then F.
            self._undo(block.g, x1, x2, second, grad_2, grad_1)
            self._undo(block.f, x2, x1, first, grad_1, grad_2 if wants_hidden or index > 0 else None)
        self._check(x1, x2, moved)
        return grad_1 + grad_2 if wants_hidden else None

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
        undone = Differentiation(self.plan.cut(reads.shape), self.inputs, self.gradients, self.dtype)
        kept = self.trace.kept.pop() if self.host is None else self.host.take()
        half = Half(self.streams, weights, reads, result, kept, grad, grad_reads)
        undone.run(function, half, self.trace.random_states)
        if weights.scale != 1:
            grad.mul_(float(weights.scale))
        self._checksums += half.checksum

    def _check(self, x1: Tensor, x2: Tensor, moved: Tensor) -> None:
        """Compares the two streams that came back at the bottom, and all on the way by their checksums."""
        names = [block.name for block in reversed(self.plan.blocks) for each in (block.g, block.f) if each is not None]
        distance = self.streams.value(x1 - x2, torch.float32)
        drifts = None
        if self.trace.checksums is not None:
            drifts = torch.stack(self._checksums) - self.trace.checksums.flip(0)
        self.plan.monitor.check_rebuilt(names, moved, distance, drifts)


def _fingerprints(x1: Tensor, x2: Tensor) -> Tensor:
    return torch.stack([fingerprint(x1), fingerprint(x2)])


def _nothing() -> None:
    """Keeps no states where no backward pass by reversal follows."""
