"""How true a reversal's gradients are, layer by layer."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from meft_runner.methods.layers import reversible_stacks
from meft_runner.reversible import ReversibleStack
from meft_runner.reversible.replay import random_state_kept
from meft_runner.run.distances import finite, mode, relative_distance


def gradient_errors(
    model: nn.Module, batch: Mapping[str, Tensor], autocast_dtype: torch.dtype | None
) -> list[dict[str, str | float | None]]:
    """Compares the gradients of a model's own reversal with those of ordinary autograd over stored activations.

    Both passes are of training, with the same dropout, and share the forward pass of the model's arithmetic:
    streams on the grid where the reversal is exact, y = lambda * x + F(x) in floating point where it is the
    published one (arXiv 2306.00477). What differs is the reversal alone. Gradients that the model holds, and
    the generators, stay as they are.

    Args:
        model: prepared with a MEFT method.
        batch: inputs with labels, on the model's device.
        autocast_dtype: of the forward pass, None for float32.

    Returns:
        For each reversible layer, bottom first, its name `layer`, and of the gradient of all that trains in it the
        relative L2 `error` and the `cosine` to the reference; both None where a gradient is not finite.

    Raises:
        StreamOverflowError: the forward pass itself is not finite or leaves the grid.
        ReversalError: in strict mode, when exact streams differ.
    """
    with mode(model, training=True):
        found = _layer_gradients(model, batch, autocast_dtype)
        with _activations_stored(reversible_stacks(model)):
            expected = _layer_gradients(model, batch, autocast_dtype)
    return [
        {
            "layer": name,
            "error": relative_distance(gradient, expected[name]),
            "cosine": finite(gradient @ expected[name] / (gradient.norm() * expected[name].norm())),
        }
        for name, gradient in found.items()
    ]


def _layer_gradients(
    model: nn.Module, batch: Mapping[str, Tensor], autocast_dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Returns the gradient of all that trains in each reversible layer, (P,), float64, by the layer's name."""
    blocks = [block for stack in reversible_stacks(model) for block in stack.plan.blocks]
    trained = [[parameter for parameter in block.parameters() if parameter.requires_grad] for block in blocks]
    device = next(model.parameters()).device
    with random_state_kept(device):
        with torch.autocast(device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None):
            loss = model(**batch).loss
        gradients = iter(torch.autograd.grad(loss, [parameter for layer in trained for parameter in layer]))
    vectors = [torch.cat([next(gradients).flatten() for _ in layer]).double() for layer in trained]
    return {block.name: vector for block, vector in zip(blocks, vectors, strict=True)}


@contextmanager
def _activations_stored(stacks: list[ReversibleStack]) -> Iterator[None]:
    """Leaves the backward pass of stacks to ordinary autograd; their forward pass stays what it is, bit for bit."""
    before = [stack.stored_layers for stack in stacks]
    for stack in stacks:
        stack.stored_layers = len(stack.blocks)
    try:
        yield
    finally:
        for stack, stored_layers in zip(stacks, before, strict=True):
            stack.stored_layers = stored_layers
