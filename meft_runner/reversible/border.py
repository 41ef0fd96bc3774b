"""What the reversed blocks of a stack hand to what follows them: blocks that keep ordinary graphs, or the merge.

y1, y2 of the last reversed block go on as x1, x2. Exact streams are handed over as integers, which carry the arithmetic
on, with their values, through which gradients come back; floating-point streams are their own values. Block inputs that
get a gradient are handed over too, so that it is summed from the top block down, as where all blocks are of one kind.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from meft_runner.reversible.block import BlockInputs
from meft_runner.reversible.gradients import Gradients
from meft_runner.reversible.streams import ExactStreams, FloatStreams, StoredStreams, Streams


def handed_over(streams: Streams, x1: Any, x2: Any, dtype: torch.dtype, inputs: BlockInputs) -> tuple[Tensor, ...]:
    """Returns the values of both streams, (B, S, H) each, the inputs that get a gradient, and integers where exact."""
    arithmetic: Any = streams
    integers = (x1, x2) if isinstance(streams, ExactStreams) else ()
    values = (arithmetic.value(stream, dtype) for stream in (x1, x2))
    # Views, since the streams themselves are kept for backward, which changes them in place.
    return (*(value.view_as(value) for value in values), *inputs.differentiable(), *integers)


def taken_over(streams: Streams, outputs: Sequence[Tensor], inputs: BlockInputs) -> tuple[tuple[Any, Any], BlockInputs]:
    """Returns both streams as `with_graph(streams)` knows them, and the inputs that go with them.

    The gradients that come back through the streams are tensors of their own, which a reversal may change in place.

    Args:
        streams: the arithmetic of the reversed blocks.
        outputs: what `handed_over` has returned.
        inputs: those of the reversed blocks.
    """
    (v1, v2), others = outputs[:2], iter(outputs[2:])
    inputs = inputs.map(lambda tensor: next(others) if tensor.requires_grad else tensor)
    above, integers = with_graph(streams), (*others,)
    i1, i2 = integers or (v1, v2)
    return (above.resumed(i1, v1), above.resumed(i2, v2)), inputs


def gradients_handed_back(
    grads: Sequence[Tensor | None], like: Tensor, dtype: torch.dtype, inputs: BlockInputs, found: Gradients
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of both streams, (B, S, H) each, zeros for one that nothing reads.

    Args:
        grads: of the outputs of `handed_over`, None where there is none.
        like: a stream.
        dtype: of the streams' values.
        inputs: those of the reversed blocks.
        found: receives what the inputs have got above.
    """
    g1, g2, *others = grads
    for tensor, grad in zip(inputs.differentiable(), others, strict=False):
        if grad is not None:
            found.add(tensor, grad.clone())
    g1, g2 = (torch.zeros(like.shape, dtype=dtype, device=like.device) if g is None else g for g in (g1, g2))
    return g1.contiguous(), g2.contiguous()


def with_graph(streams: Streams) -> FloatStreams | StoredStreams:
    """Returns the same arithmetic for ordinary autograd."""
    return StoredStreams(streams) if isinstance(streams, ExactStreams) else streams
