"""Blocks that keep ordinary graphs above blocks that are reversed: the same numbers as where all are of one kind."""

import pytest
import torch

from meft_runner.methods.layers import reversible_stacks
from meft_runner.reversible import BlockInputs, ReversalError
from meft_runner.reversible.monitor import StreamOverflowError
from meft_runner.reversible.streams import ExactStreams
from tests.helpers.exactness import BOUNDS, PRECISIONS, relative_errors, train_once
from tests.helpers.models import PEFT_METHODS, VARIANTS, batch, meft_settings, prepared
from tests.helpers.toy import Mix, coupling, hidden_states, stack

DELAY = coupling("1/256", "1", merge=(0.0, 1.0), mu_1=255 / 256)


def step_of(mode="exact", inputs=None, precision=None, alter=lambda module: None, **kwargs):
    """Returns loss and all gradients of a toy stack's step: of its parameters, its input and its block inputs."""
    module, hidden = stack(mode, **kwargs), hidden_states().requires_grad_()
    alter(module)
    torch.manual_seed(5)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision is not None):
        loss = module(hidden, inputs).square().sum()
    leaves = [hidden, *(p for p in module.parameters() if p.requires_grad)]
    leaves += [] if inputs is None else inputs.differentiable()
    return loss, torch.autograd.grad(loss, leaves, materialize_grads=True)


def assert_same(found, expected):
    assert torch.equal(found[0], expected[0])
    assert all(torch.equal(*pair) for pair in zip(found[1], expected[1], strict=True))


def no_last_g(module):
    module.blocks[-1].g = None


def no_g(module):
    for block in module.blocks:
        block.g = None


def frozen_below(module):
    for block in module.blocks[:3]:
        block.requires_grad_(False)


@PRECISIONS
@pytest.mark.parametrize("stored", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("settings", [
    {}, {"tie": coupling("1/10", "1/10", swap=False)}, {"learn_merge": True}, {"tie": coupling(merge=(0.0, 1.0))},
    {"tie": coupling(merge=(1.0, 0.0))}, {"tie": DELAY, "alter": no_g}, {"alter": no_last_g}, {"alter": frozen_below},
    {"chunks": 3}, {"tie": coupling(mu_1=0.9), "grid_bits": 12},
], ids=lambda settings: "-".join(settings) or "usual")  # fmt: skip
@pytest.mark.thin(2)
def test_loss_and_gradients_are_those_of_one_kind(settings, stored, precision):
    found = step_of(stored_layers=stored, precision=precision, **settings)
    assert_same(found, step_of(precision=precision, **settings))
    assert_same(found, step_of("stored", precision=precision, **settings))


@pytest.mark.parametrize("stored", [0, 1, 3, 4])
def test_block_inputs_get_their_gradient_from_blocks_of_both_kinds(stored):
    states = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(7), requires_grad=True)
    inputs = BlockInputs(attention_mask=torch.rand(4, 6, 1).round(), encoder_states=states)
    for chunks in (None, 2):
        expected = step_of("stored", inputs, chunks=chunks)
        assert_same(step_of("exact", inputs, chunks=chunks, stored_layers=stored), expected)


@pytest.mark.parametrize("stored", [1, 3, 4])
def test_float_streams_are_reversed_through_fewer_blocks(stored):
    expected = step_of("float")
    loss, found = step_of("float", stored_layers=stored)
    assert torch.equal(loss, expected[0])
    assert all(((a - b).norm() / b.norm()) < 1e-3 for a, b in zip(found, expected[1], strict=True))
    module = stack("float", stored_layers=stored, tie=coupling("1/10", "1/10"))
    module(hidden_states()).sum().backward()
    few = module.monitor.max_error
    module.stored_layers = 0
    module(hidden_states()).sum().backward()
    assert few < module.monitor.max_error


def test_reversed_blocks_alone_leave_remainders():
    saved = []
    module = stack(layers=6, stored_layers=4)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        module(hidden_states())
    assert sum(t.dtype == torch.uint8 for t in saved) == 2


def test_without_gradients_the_output_is_the_same():
    module = stack(stored_layers=2)
    torch.manual_seed(5)
    expected = module(hidden_states())
    torch.manual_seed(5)
    with torch.no_grad():
        found = module(hidden_states())
    assert torch.equal(found, expected)
    assert not found.requires_grad


def test_a_kept_graph_may_be_run_backward_again_and_two_passes_may_wait():
    module = stack(stored_layers=2)
    torch.manual_seed(5)
    first, second = module(hidden_states()).square().sum(), module(hidden_states(seed=2)).square().sum()
    parameters = list(module.parameters())
    once = torch.autograd.grad(first, parameters, retain_graph=True)
    torch.autograd.grad(second, parameters)
    again = torch.autograd.grad(first, parameters)
    assert all(torch.equal(*pair) for pair in zip(once, again, strict=True))


def test_draws_between_the_passes_disturb_nothing():
    states = []
    for stored in (0, 2):
        module = stack(stored_layers=stored)
        torch.manual_seed(5)
        loss = module(hidden_states()).sum()
        torch.rand(3)
        loss.backward()
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_a_stream_that_comes_back_different_is_found_below_stored_blocks(monkeypatch):
    module = stack(stored_layers=2)
    loss = module(hidden_states()).sum()
    revert = ExactStreams.revert_

    def inexact(self, stream, *arguments):
        revert(self, stream, *arguments)
        stream[0, 0, 0] += 1
        return self.checksum(stream)

    monkeypatch.setattr(ExactStreams, "revert_", inexact)
    with pytest.raises(ReversalError, match="first in layer 1"):
        loss.backward()


@pytest.mark.parametrize("stored", [0, 2, 4])
def test_a_stream_that_leaves_the_grid_is_found_in_blocks_of_either_kind(stored, monkeypatch):
    module = stack(stored_layers=stored)
    own = Mix.forward
    top = module.blocks[-1].f
    monkeypatch.setattr(Mix, "forward", lambda self, *args: own(self, *args) * (1e6 if self is top else 1))
    with pytest.raises(StreamOverflowError, match="at layer 3"):
        module(hidden_states())


def check_stored_layers(name, precision, layers=4, stored=(1,), bound=0.0, **kwargs):
    reference_loss, reference, _ = train_once(name, "stored", layers, precision, **kwargs)
    for count in stored:
        loss, found, model = train_once(name, "exact", layers, precision, stored_layers=count, **kwargs)
        assert loss == reference_loss
        assert max(relative_errors(found, reference).values()) <= bound
        for stack_ in reversible_stacks(model):
            reverses = stack_.stored_layers < layers
            assert (stack_.monitor.checked_steps, stack_.monitor.mismatches) == (int(reverses), 0)
        assert sum(stack_.stored_layers for stack_ in reversible_stacks(model)) == count


@PRECISIONS
@pytest.mark.parametrize(("name", "kind", "settings"), [
    ("meft1", "bert", {"chunks": 3}), ("meft3", "bart", {}), ("meft2", "llama", {"merge": "learned"}),
    ("lora", "deberta", {}), ("dora", "vit", {"padding": None}),
])  # fmt: skip
def test_models(name, kind, settings, precision):
    check_stored_layers(name, precision, kind=kind, stored=(1, 3), **settings)


@pytest.mark.slow
@PRECISIONS
@pytest.mark.parametrize("chunks", [None, 3, 7])
@pytest.mark.parametrize("kind", ["bert", "roberta", "bart", "opt", "opt-postln", "vit", "llama", "mistral", "deberta"])
@pytest.mark.parametrize("name", [*VARIANTS, *PEFT_METHODS])
def test_every_method_and_family(name, kind, chunks, precision):
    # DeBERTa reads some weights twice in a piece, whose gradients autograd adds up in another order.
    bound = BOUNDS[precision] if kind == "deberta" and chunks else 0.0
    check_stored_layers(name, precision, kind=kind, stored=(1, 2, 4), bound=bound, chunks=chunks)


def test_two_stacks_store_the_decoders_layers_first():
    for count, expected in ((0, [0, 0]), (2, [0, 2]), (3, [0, 3]), (5, [2, 3]), (6, [3, 3])):
        model = prepared(meft_settings("meft1", stored_layers=count), "bart", layers=3)
        assert [each.stored_layers for each in reversible_stacks(model)] == expected


@pytest.mark.parametrize("mode", ["exact", "float"])
def test_frozen_layers_stay_below(mode):
    kwargs = {"frozen_layers": 2, "kind": "opt"}
    _, reference, _ = train_once("meft1", "stored" if mode == "exact" else mode, 6, None, **kwargs)
    _, found, model = train_once("meft1", mode, 6, None, stored_layers=2, **kwargs)
    assert max(relative_errors(found, reference).values()) <= (0 if mode == "exact" else 1e-2)
    assert [len(each.blocks) for each in reversible_stacks(model)] == [4]


def test_scores_are_the_same_however_many_are_stored():
    inputs = {name: tensor for name, tensor in batch("llama").items() if name != "labels"}
    model = prepared(meft_settings("meft1"), "llama", layers=3).eval()
    (each,) = reversible_stacks(model)
    outputs = []
    for stored in (0, 2, 3):
        each.stored_layers = stored
        with torch.no_grad():
            outputs.append(model(**inputs).logits)
        outputs.append(model(**inputs).logits.detach())
    assert all(torch.equal(outputs[0], output) for output in outputs)
