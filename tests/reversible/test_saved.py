"""What a stack saves for backward may go elsewhere and come back, as often as backward is run."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tests.helpers.toy import hidden_states, stack


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
def test_gradients_are_those_of_ordinary_autograd(loss_of):
    found, expected = (gradients(mode, loss_of, chunks=3) for mode in ("exact", "stored"))
    for a, b in zip(found, expected, strict=True):
        assert (a is b is None) or torch.equal(a, b)


def test_a_graph_that_was_not_kept_cannot_be_run_again():
    loss = plain(stack())
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()
