"""What becomes of the last two streams of a pass: they are merged, or blocks above go on from them.

Blocks that are reversed may stand below blocks that keep ordinary graphs: y1, y2 of the last reversed block are x1, x2
of the first one above it. Exact streams are handed over as integers, which carry the arithmetic on, with their values,
through which gradients come back; floating-point streams are their own values. Block inputs that get a gradient are
handed over too, so that it is summed from the top block down, as where all blocks are of one kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from meft_runner.reversible.block import BlockInputs
from meft_runner.reversible.gradients import Gradients
from meft_runner.reversible.relay import Relay
from meft_runner.reversible.streams import ExactStreams, FloatStreams, StoredStream, StoredStreams, Streams


@dataclass(frozen=True)
class Merge:
    """The streams become the stack's output, w1 * x1 + w2 * x2.

    Attributes:
        weights: w1 and w2.
        learned: (2,), the weights where they are learned, in place of these.
    """

    weights: tuple[float, float]
    learned: nn.Parameter | None = None

    def outputs(
        self, streams: Streams, x1: Any, x2: Any, dtype: torch.dtype, inputs: BlockInputs
    ) -> tuple[Tensor, ...]:
        """Returns the output alone, (B, S, H)."""
        arithmetic: Any = streams
        if self.learned is not None:
            w1, w2 = self.learned.to(dtype)
            return (w1 * arithmetic.value(x1, dtype) + w2 * arithmetic.value(x2, dtype),)
        weighed = zip(self.weights, (x1, x2), strict=True)
        parts = [weight * arithmetic.value(stream, dtype) for weight, stream in weighed if weight]
        return (parts[0] if len(parts) == 1 else parts[0] + parts[1],)

    def gradients(
        self,
        streams: Streams,
        last: tuple[Tensor, Tensor],
        relay: Relay,
        inputs: BlockInputs,
        found: Gradients,
    ) -> tuple[Tensor, Tensor]:
        """Returns the gradients of the last two streams, (B, S, H) each, which may be changed in place.

        Args:
            streams: the arithmetic.
            last: both streams, (B, S, H) each.
            relay: has the gradients of the outputs, one of them at the least.
            inputs: what the blocks read besides.
            found: receives the gradients of other tensors.
        """
        grad = relay.take(0)
        assert grad is not None  # the only output
        w1: float | Tensor
        w2: float | Tensor
        w1, w2 = self.weights
        if self.learned is not None:
            values = (streams.value(stream, grad.dtype) for stream in last)  # type: ignore[arg-type]
            found.add(self.learned, torch.stack([(grad * each).sum().to(self.learned.dtype) for each in values]))
            w1, w2 = self.learned.detach().to(grad.dtype)
        return (w1 * grad).contiguous(), (w2 * grad).contiguous()


@dataclass(frozen=True)
class HandOver:
    """The streams go on into blocks that keep ordinary graphs."""

    def outputs(
        self, streams: Streams, x1: Any, x2: Any, dtype: torch.dtype, inputs: BlockInputs
    ) -> tuple[Tensor, ...]:
        """Returns what carries the gradients of both streams, the inputs that get one, and the integers.

        Integers have their values before them, which are (B, S, H) as they are.
        """
        if isinstance(streams, ExactStreams):
            return streams.value(x1, dtype), streams.value(x2, dtype), *inputs.differentiable(), x1, x2
        return x1.clone(), x2.clone(), *inputs.differentiable()  # reversal changes its own in place

    def taken(self, outputs: Sequence[Tensor], inputs: BlockInputs) -> tuple[tuple[Any, Any], BlockInputs]:
        """Returns the streams as `with_graph` knows them, and the inputs that go with them.

        Args:
            outputs: what `outputs` has returned.
            inputs: those of the blocks below.
        """
        first, second, *others = outputs
        handed = iter(others)
        inputs = inputs.map(lambda tensor: next(handed) if tensor.requires_grad else tensor)
        integers = tuple(handed)
        if not integers:
            return (first, second), inputs
        return (StoredStream(integers[0], first), StoredStream(integers[1], second)), inputs

    def gradients(
        self,
        streams: Streams,
        last: tuple[Tensor, Tensor],
        relay: Relay,
        inputs: BlockInputs,
        found: Gradients,
    ) -> tuple[Tensor, Tensor]:
        """Returns the gradients of both streams, as `Merge.gradients` does: zeros for one that nothing reads."""
        own = [None if grad is None else grad.clone().contiguous() for grad in (relay.take(0), relay.take(1))]
        for place, tensor in enumerate(inputs.differentiable(), start=2):
            grad = relay.take(place)
            if grad is not None:
                found.add(tensor, grad.clone())
        dtype = next((grad.dtype for grad in own if grad is not None), torch.float32)
        grad_1, grad_2 = (
            torch.zeros(stream.shape, dtype=dtype, device=stream.device) if grad is None else grad
            for stream, grad in zip(last, own, strict=True)
        )
        return grad_1, grad_2


Ending = Merge | HandOver


def with_graph(streams: Streams) -> FloatStreams | StoredStreams:
    """Returns the same arithmetic for ordinary autograd."""
    return StoredStreams(streams) if isinstance(streams, ExactStreams) else streams
