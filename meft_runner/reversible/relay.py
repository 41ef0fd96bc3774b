"""Gradients that a long backward pass takes over from autograd.

Autograd holds what it gives a node until the node is done. For a stack, which is done when all its layers are, that is
a (B, S, H) tensor beside those of every layer. Behind the stack stands a node of its own, whose backward puts the
gradient aside for the stack and passes on a stand-in of one element.
"""

from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class Relay:
    """Carries the gradients of one pass's outputs past autograd."""

    def __init__(self) -> None:
        self._grads: dict[int, Tensor] = {}

    def behind(self, place: int, output: Tensor) -> Tensor:
        """Returns an output of a node, (B, S, H), as what follows should read it."""
        returned: Tensor = _Aside.apply(self, place, output)
        return returned

    def put(self, place: int, grad: Tensor) -> None:
        """Keeps an output's gradient until it is taken."""
        self._grads[place] = grad

    def take(self, place: int) -> Tensor | None:
        """Returns an output's gradient, (B, S, H), and holds it no longer; None where nothing reads the output."""
        return self._grads.pop(place, None)


class _Aside(Function):
    @staticmethod
    def forward(ctx: Any, relay: Relay, place: int, output: Tensor) -> Tensor:
        """Returns the output as it is."""
        ctx.relay, ctx.place = relay, place
        ctx.mark_dirty(output)  # a view of it could not be changed in place by what follows
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, Tensor]:
        """Puts the gradient aside, and returns one element in its shape."""
        (grad,) = grads
        ctx.relay.put(ctx.place, grad)
        return None, None, grad.new_zeros(()).expand(grad.shape)
