"""The rules of the engine, one test for each mistake that a reversible library has shipped."""

import gc
import weakref

import pytest
import torch

from meft_runner.memory import TrackedMeter
from meft_runner.memory.meters import rounded_bytes
from meft_runner.reversible import BlockInputs, ReversibleBlock, ReversibleStack
from tests.helpers.toy import Mix, coupling, hidden_states, stack


def loss_of(module, hidden, inputs=None):
    return module(hidden, inputs).square().sum()


def stored_gradients(hidden, inputs=None, seed=5, **kwargs):
    module = stack("stored", **kwargs)
    torch.manual_seed(seed)
    loss_of(module, hidden, inputs).backward()
    return [p.grad for p in module.parameters()]


def assert_close(found, expected, tolerance=5e-6):
    for a, b in zip(found, expected, strict=True):
        assert ((a - b).norm() / b.norm()).item() < tolerance


def test_gradients_come_back_as_return_values():
    module = stack()
    torch.manual_seed(5)
    found = torch.autograd.grad(loss_of(module, hidden_states()), list(module.parameters()))
    assert_close(found, stored_gradients(hidden_states()))
    assert all(p.grad is None for p in module.parameters())


def test_input_gradient():
    gradients = []
    for mode in ("exact", "stored"):
        hidden = hidden_states().requires_grad_()
        module = stack(mode)
        torch.manual_seed(5)
        loss_of(module, hidden).backward()
        gradients.append(hidden.grad)
    assert_close(gradients[:1], gradients[1:])


def test_frozen_parameters_get_no_gradient():
    module = stack()
    module.blocks[1].requires_grad_(False)
    loss_of(module, hidden_states()).backward()
    assert all(p.grad is None for p in module.blocks[1].parameters())
    assert all(p.grad is not None for p in module.blocks[0].parameters())


def test_random_state_is_left_as_ordinary_autograd_leaves_it():
    states = []
    for mode in ("exact", "stored"):
        module = stack(mode)
        torch.manual_seed(5)
        loss = loss_of(module, hidden_states())
        torch.rand(3)  # draws between the passes must not disturb the recompute
        loss.backward()
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_random_state_is_restored_after_an_error_in_backward(monkeypatch):
    module = stack()
    loss = loss_of(module, hidden_states())
    before = torch.get_rng_state()
    monkeypatch.setattr(Mix, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loss.backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_fixes_dropout():
    losses = []
    for seed in (5, 5, 6):
        module = stack()
        torch.manual_seed(seed)
        losses.append(loss_of(module, hidden_states()).item())
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("backward_inside", [True, False])
def test_autocast_is_entered_again_in_backward(backward_inside):
    module = stack()
    torch.manual_seed(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(module, hidden_states())
        if backward_inside:
            loss.backward()
    if not backward_inside:
        loss.backward()
    reference = stack("stored")
    torch.manual_seed(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reference_loss = loss_of(reference, hidden_states())
    reference_loss.backward()
    assert loss.item() == reference_loss.item()
    assert_close([p.grad for p in module.parameters()], [p.grad for p in reference.parameters()], 2e-2)


def test_evaluation_before_training_in_one_autocast_context():
    # A weight cast under no_grad and found in autocast's cache later would have no graph.
    module = stack()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            module(hidden_states())
        loss_of(module, hidden_states()).backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())


def test_two_forwards_before_one_backward():
    one, two = hidden_states(seed=1), hidden_states(seed=2)
    module = stack()
    torch.manual_seed(5)
    (loss_of(module, one) + loss_of(module, two)).backward()
    reference = stack("stored")
    torch.manual_seed(5)
    (loss_of(reference, one) + loss_of(reference, two)).backward()
    assert_close([p.grad for p in module.parameters()], [p.grad for p in reference.parameters()])


def test_no_grad_keeps_nothing():
    module = stack(layers=8)
    with torch.no_grad(), TrackedMeter() as meter:
        meter.follow(module.parameters())
        before = meter.live_bytes()
        output = module(hidden_states())
        gc.collect()
        assert meter.live_bytes() - before == rounded_bytes(output.untyped_storage().nbytes())
    assert not output.requires_grad


def test_everything_kept_is_visible_to_saved_tensor_hooks():
    saved = []
    module = stack(layers=4)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        module(hidden_states())
    shape = hidden_states().shape
    streams = [t for t in saved if t.dtype == torch.int32 and t.shape == shape]
    packed = [t for t in saved if t.dtype == torch.uint8 and t.numel() == shape.numel() // 2]
    assert len(streams) == 2  # the last two streams
    assert len(packed) == 4  # one scaled stream a layer, four bits an element


def test_saved_tensors_are_unpacked_once():
    packed, unpacked = [], []
    module = stack()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(1) or t, lambda t: unpacked.append(1) or t):
        loss_of(module, hidden_states()).backward()
    assert len(unpacked) == len(packed)


def test_a_parameter_frozen_between_the_passes_hands_its_gradient_to_no_other():
    module = stack()
    torch.manual_seed(5)
    loss = loss_of(module, hidden_states())
    frozen = module.blocks[1].f.inner.weight.requires_grad_(False)
    loss.backward()
    expected = dict(zip(module.parameters(), stored_gradients(hidden_states()), strict=True))
    del expected[frozen]
    assert_close([parameter.grad for parameter in expected], expected.values())


def test_saved_tensors_moved_elsewhere_still_work():
    module = stack()
    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t.clone()):
        loss_of(module, hidden_states()).backward()
    assert_close([p.grad for p in module.parameters()], stored_gradients(hidden_states()))


def test_second_derivatives_are_refused():
    hidden = hidden_states().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(stack(), hidden), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_incoming_gradient_is_not_changed():
    output = stack()(hidden_states())
    gradient = torch.ones_like(output)
    output.backward(gradient)
    assert torch.equal(gradient, torch.ones_like(output))


def test_a_weight_changed_between_the_passes_is_noticed():
    module = stack()
    loss = loss_of(module, hidden_states())
    with torch.no_grad():
        module.blocks[0].f.inner.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_masks_reach_every_block_in_chunks_too():
    mask = torch.ones(4, 6, 1)
    mask[0, 3:] = 0
    for chunks in (1, 2):
        module = stack(chunks=chunks)
        torch.manual_seed(5)
        loss_of(module, hidden_states(), BlockInputs(attention_mask=mask)).backward()
        expected = stored_gradients(hidden_states(), BlockInputs(attention_mask=mask), chunks=chunks)
        assert_close([p.grad for p in module.parameters()], expected)


@pytest.mark.parametrize("chunks", [1, 2])
def test_encoder_states_get_their_gradient_summed_over_blocks(chunks):
    found = []
    for mode in ("exact", "stored"):
        states = hidden_states(length=5, seed=9).requires_grad_()
        module = stack(mode, chunks=chunks)
        torch.manual_seed(5)
        loss_of(module, hidden_states(), BlockInputs(encoder_states=states * 2)).backward()
        found.append(states.grad)
    assert_close(found[:1], found[1:])


def test_a_parameter_shared_by_all_blocks_gets_the_sum():
    found = []
    for mode in ("exact", "stored"):
        torch.manual_seed(0)
        shared = Mix(8)
        blocks = [ReversibleBlock(shared, Mix(8), f"layer {i}") for i in range(3)]
        module = ReversibleStack(blocks, coupling(), mode)
        torch.manual_seed(5)
        loss_of(module, hidden_states()).backward()
        found.append([p.grad for p in module.parameters()])
    assert_close(*found)


def test_accumulated_gradients_equal_one_batch():
    hidden = hidden_states(rows=16)
    parts, whole = stack(dropout=0.0), stack(dropout=0.0)
    for part in hidden.split(8):
        loss_of(parts, part).backward()
    loss_of(whole, hidden).backward()
    assert_close([p.grad for p in parts.parameters()], [p.grad for p in whole.parameters()], 1e-5)


def test_bfloat16_weights():
    module = stack().to(torch.bfloat16)
    output = module(hidden_states(dtype=torch.bfloat16))
    output.square().sum().backward()
    assert output.dtype == torch.bfloat16
    assert module.monitor.mismatches == 0


def test_a_copy_made_by_data_parallel_is_refused():
    # Its weights are no parameters: nothing would be trained, without a word.
    copy = stack()._replicate_for_data_parallel()
    with pytest.raises(RuntimeError, match=r"DataParallel.*torchrun"):
        copy(hidden_states())


def test_nothing_of_a_pass_waits_for_the_garbage_collector():
    module = stack(layers=4)
    gc.collect()
    gc.disable()
    try:
        with TrackedMeter() as meter:
            meter.follow(module.parameters())
            loss = loss_of(module, hidden_states())
            after_forward = meter.live_bytes()
            gc.collect()
            assert meter.live_bytes() == after_forward
            loss.backward()
            del loss
            after_backward = meter.live_bytes()
            gc.collect()
            assert meter.live_bytes() == after_backward
    finally:
        gc.enable()


@pytest.mark.parametrize("mode", ["exact", "float"])
def test_the_gradient_of_the_output_is_free_once_the_streams_have_theirs(mode):
    """Autograd would hold it until the lowest block is done."""
    module, alive = stack(mode, layers=3), []
    output = module(hidden_states())
    output.register_hook(lambda grad: alive.append(weakref.ref(grad.untyped_storage())))
    seen = []
    for block in module.blocks:
        block.f.register_forward_hook(lambda *_: seen.append(alive[0]()))
    (output * torch.randn(output.shape)).sum().backward()
    assert seen == [None] * 3
