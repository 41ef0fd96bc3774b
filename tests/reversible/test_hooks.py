"""Hooks see the whole gradient once, as with ordinary autograd, whatever pieces a stack takes it in."""

import pytest
import torch

from meft_runner.reversible import BlockInputs
from tests.helpers.toy import hidden_states, stack


def gradients(mode, hooked, inputs=None):
    """Returns the gradients of all parameters, after `hooked` has put hooks on the stack."""
    module = stack(mode, chunks=3)
    hooked(module)
    torch.manual_seed(5)
    module(hidden_states(), inputs).square().sum().backward()
    return [parameter.grad for parameter in module.parameters()]


def same(found, expected):
    return all(map(torch.equal, found, expected))


def test_a_hook_of_a_parameter_fires_once_with_its_whole_gradient():
    seen = {"exact": [], "stored": []}

    def hooked(mode, module):
        for parameter in module.parameters():
            parameter.register_hook(lambda gradient: seen[mode].append(gradient) or gradient * 2)

    found, expected = (gradients(mode, lambda module, mode=mode: hooked(mode, module)) for mode in seen)
    assert same(found, expected)
    assert len(seen["exact"]) == len(seen["stored"]) == len(found)


def test_a_hook_after_accumulation_fires_once():
    def double(parameter):
        parameter.grad.mul_(2)

    def hooked(module):
        for parameter in module.parameters():
            parameter.register_post_accumulate_grad_hook(double)

    assert same(gradients("exact", hooked), gradients("stored", hooked))


def test_a_hook_of_several_parameters_fires_once():
    fired = []

    def hooked(module):
        torch.autograd.graph.register_multi_grad_hook(list(module.parameters()), fired.append)

    gradients("exact", hooked)
    assert len(fired) == 1


def test_a_hook_of_a_block_input_fires_once():
    fired = []
    states = hidden_states(length=5, seed=9).requires_grad_()
    states.register_hook(fired.append)
    gradients("exact", lambda module: None, BlockInputs(encoder_states=states))
    assert len(fired) == 1
    assert torch.equal(fired[0], states.grad)


def test_hooks_stay_and_can_be_removed():
    module = stack()
    weight, fired = module.blocks[0].f.inner.weight, []
    handle = weight.register_hook(fired.append)
    module(hidden_states()).sum().backward()
    module(hidden_states()).sum().backward()
    handle.remove()
    module(hidden_states()).sum().backward()
    assert len(fired) == 2


def test_hooks_stay_after_an_error_in_backward(monkeypatch):
    module = stack()
    fired = []
    module.blocks[0].f.inner.weight.register_hook(fired.append)
    loss = module(hidden_states()).sum()
    with monkeypatch.context() as patch:
        patch.setattr(type(module.blocks[0].g), "forward", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            loss.backward()
    module(hidden_states()).sum().backward()
    assert len(fired) == 1
