import re
from dataclasses import replace

import pytest
import torch

from meft_runner.backbones import task_head
from meft_runner.errors import UserError
from meft_runner.methods.layers import reversible_stacks
from meft_runner.run.callbacks import check_gradients
from tests.helpers.models import KINDS, VARIANTS, batch, family_of, gradients, meft_settings, prepared, tiny_model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_adapters_and_head_train_and_nothing_else(variant, kind):
    model = prepared(meft_settings(variant, adapter_dim=3), kind)
    model(**batch(kind)).loss.backward()
    check_gradients(model)
    trained = set(gradients(model))
    head = tuple(task_head(model))
    assert len(head) == (0 if kind.endswith("-answers") else 2 if kind == "deberta" else 1)  # with its pooler
    adapters = [p for name, p in model.named_parameters() if name in trained and not name.startswith(head)]
    stacks = len(family_of(kind).views)
    assert sum(p.numel() for p in adapters) == stacks * 2 * 2 * (2 * 64 * 3 + 64 + 3)  # two layers, two adapters each
    assert all(re.search(r"adapter\.|\.[fg]\.", name) for name in trained if not name.startswith(head))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_start_is_near_the_pretrained_model(variant):
    inputs = batch()
    plain = tiny_model(layers=4).eval()
    merge = {"meft1": [0.0, 1.0], "meft2": [1.0, 0.0], "meft3": [0.0, 1.0]}[variant]  # the stream of whole layers
    scales = {"scale_1": "1/256"} if variant == "meft1" else {"scale_2": "1/256"} if variant == "meft2" else {}
    if variant == "meft3":
        scales = {"scale_1": "1/256", "scale_2": "1/256"}
    model = prepared(meft_settings(variant, merge=merge, **scales), model=tiny_model(layers=4)).eval()
    with torch.no_grad():
        expected = plain.bert(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
        found = model.bert(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
    assert ((found - expected).norm() / expected.norm()).item() < 0.05


@pytest.mark.parametrize("variant", VARIANTS)
def test_frozen_layers_stay_plain_and_first(variant):
    model = prepared(meft_settings(variant, frozen_layers=2), layers=3)
    names = [type(layer).__name__ for layer in model.bert.encoder.layer]
    assert names == ["BertLayer", "BertLayer", "StackLayer"]
    assert [block.name for block in reversible_stacks(model)[0].blocks] == ["layer 2"]
    model(**batch()).loss.backward()
    check_gradients(model)


def test_more_frozen_layers_than_the_model_can_spare():
    with pytest.raises(UserError, match=r"method.frozen_layers=2: tiny has 2 layers .* Take 0 to 1"):
        prepared(meft_settings(frozen_layers=2), layers=2)


def test_exact_and_stored_evaluate_alike():
    inputs = batch()
    logits = []
    for reversal in ("exact", "stored"):
        model = prepared(meft_settings("meft3", reversal)).eval()
        with torch.no_grad():
            logits.append(model(**inputs).logits)
    assert torch.equal(*logits)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_unpadded_batches(attention):
    model = prepared(meft_settings(), attention=attention)
    model(**batch(padding=None)).loss.backward()
    check_gradients(model)
    assert reversible_stacks(model)[0].monitor.mismatches == 0


@pytest.mark.parametrize(("frozen", "encoder", "decoder"), [
    (0, ["encoder layer 0", "encoder layer 1"], ["decoder layer 0", "decoder layer 1"]),
    (1, ["encoder layer 1"], ["decoder layer 0", "decoder layer 1"]),
    (3, [], ["decoder layer 1"]),
])  # fmt: skip
def test_frozen_layers_count_from_the_bottom_of_the_encoder(frozen, encoder, decoder):
    model = prepared(meft_settings(frozen_layers=frozen), "bart")
    found = [[block.name for block in stack.blocks] for stack in reversible_stacks(model)]
    assert found == [names for names in (encoder, decoder) if names]
    model(**batch("bart")).loss.backward()
    check_gradients(model)


def test_a_model_that_leaves_out_layers_is_refused():
    model = tiny_model("bart")
    model.config.decoder_layerdrop = 0.1
    with pytest.raises(UserError, match=r"tiny has decoder_layerdrop=0.1, .* Set decoder_layerdrop to 0"):
        prepared(meft_settings(), "bart", model=model)


def test_a_model_whose_layers_read_different_masks_is_refused():
    model = tiny_model("qwen2")
    model.config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(UserError, match=r"tiny has layers of full_attention and sliding_attention .* one. Take method"):
        prepared(meft_settings(), "qwen2", model=model)
    model.config.layer_types = ["sliding_attention"] * 2
    prepared(meft_settings(), "qwen2", model=model)


def train(model, inputs, steps=3):
    """Takes some steps with AdamW; returns the names of the parameters whose gradient was zero in every one."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    seen = set()
    for step in range(steps):
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        if step == 0:
            check_gradients(model)
        seen |= {name for name, gradient in gradients(model).items() if gradient.any()}
        optimizer.step()
    return gradients(model).keys() - seen


@pytest.mark.parametrize("zero_start", [False, True])
@pytest.mark.parametrize("kind", ["bert", "bart"])
@pytest.mark.parametrize("merge", [[0, 1], [1, 0], "learned"], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.thin(2)
def test_every_parameter_learns_with_any_merge(variant, merge, kind, zero_start):
    model = prepared(meft_settings(variant, merge=merge, zero_start=zero_start), kind)
    assert not train(model, batch(kind))
    assert all(stack.monitor.mismatches == 0 for stack in reversible_stacks(model))


@pytest.mark.parametrize(("variant", "merge"), [("meft1", [0, 1]), ("meft2", [0, 1]), ("meft3", [1, 0])])
def test_what_is_left_out_is_what_cannot_learn(variant, merge):
    """With these weights, the last G is all that ordinary autograd finds no gradient for."""
    left_out = prepared(meft_settings(variant, "stored", merge=merge))
    whole = prepared(meft_settings(variant, "stored"))
    (stack,) = reversible_stacks(whole)
    stack.coupling = replace(stack.coupling, merge=tuple(map(float, merge)))
    whole(**batch()).loss.backward()
    idle = {name for name, p in whole.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    trained = {name for name, p in whole.named_parameters() if p.requires_grad}
    assert idle
    assert all(".blocks.1.g." in name for name in idle)
    assert {name for name, p in left_out.named_parameters() if p.requires_grad} == trained - idle
    torch.manual_seed(3)
    with torch.no_grad():
        assert torch.equal(left_out.eval()(**batch()).logits, whole.eval()(**batch()).logits)


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_streams_read_leave_nothing_out(variant):
    for merge in ([0.1, 1], "learned"):
        (stack,) = reversible_stacks(prepared(meft_settings(variant, merge=merge)))
        assert all(block.g is not None for block in stack.plan.blocks)


def test_learned_merge_weights_stand_where_the_model_does():
    model = tiny_model().to("meta")
    (stack,) = reversible_stacks(prepared(meft_settings(merge="learned"), model=model))
    assert stack.learned_merge.is_meta
