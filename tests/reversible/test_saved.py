"""What a stack saves for backward may go elsewhere and come back, as often as backward is run."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from meft_runner.reversible import ReversalError
from tests.helpers.toy import coupling, hidden_states, stack


def gradients(mode, loss_of, **kwargs):
    """Returns the gradients of all parameters after `loss_of` has made the loss of a stack."""
    module = stack(mode, **kwargs)
    torch.manual_seed(5)
    loss_of(module).backward()
    return [parameter.grad for parameter in module.parameters()]


def plain(module):
    return module(hidden_states()).square().sum()


def checkpointed(module):
    return checkpoint(module, hidden_states(), use_reentrant=False).square().sum()


def on_the_host(module):
    with torch.autograd.graph.save_on_cpu():
        return plain(module)


def both(module):
    with torch.autograd.graph.save_on_cpu():
        return checkpointed(module)


def twice(module):
    loss = plain(module)
    loss.backward(retain_graph=True)
    return loss


def frozen_between(module):
    loss = plain(module)
    module.blocks[1].f.requires_grad_(False)
    return loss


def thawed_between(module):
    module.blocks[1].f.requires_grad_(False)
    loss = plain(module)
    module.blocks[1].f.requires_grad_(True)
    return loss


@pytest.mark.parametrize(
    "loss_of", [checkpointed, on_the_host, both, twice, frozen_between, thawed_between], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("settings", [{}, {"stored_layers": 2}, {"offload": True}], ids=str)
def test_gradients_are_those_of_ordinary_autograd(loss_of, settings):
    found, expected = (gradients(mode, loss_of, chunks=3, **settings) for mode in ("exact", "stored"))
    for a, b in zip(found, expected, strict=True):
        assert (a is b is None) or torch.equal(a, b)


def test_a_graph_that_was_not_kept_cannot_be_run_again():
    loss = plain(stack())
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def is_stream(tensor):
    return tensor.shape == hidden_states().shape and not tensor.requires_grad


@pytest.mark.parametrize("mode", ["exact", "float"])
@pytest.mark.parametrize("permute", [lambda t: t.flip(0), lambda t: t.flip(1), lambda t: t.flip(2)])
def test_streams_that_come_back_in_another_order_are_an_error(permute, mode):
    # With scales of 1 and no masks both streams are undone alike in any order, and end equal.
    module = stack(mode, dropout=0.0, tie=coupling("1", "1"))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: permute(t) if is_stream(t) else t):
        loss = plain(module)
        with pytest.raises(ReversalError, match="saved for backward"):
            loss.backward()


def test_streams_that_come_back_in_each_other_s_place_are_an_error():
    module, packed = stack(), []
    hooks = (lambda t: packed.append(t) or len(packed) - 1, lambda place: packed[exchanged.get(place, place)])
    with torch.autograd.graph.saved_tensors_hooks(*hooks):
        loss = plain(module)
    first, second = (place for place, tensor in enumerate(packed) if is_stream(tensor) and tensor.dtype == torch.int32)
    exchanged = {first: second, second: first}
    with pytest.raises(ReversalError, match="saved for backward"):
        loss.backward()


def test_a_stack_that_is_not_strict_counts_streams_that_were_exchanged():
    module = stack(dropout=0.0, tie=coupling("1", "1"), strict=False)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t.flip(0) if is_stream(t) else t):
        plain(module).backward()
    assert module.monitor.mismatches > 0
