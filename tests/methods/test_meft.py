import re

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
    assert len(head) == (0 if kind == "opt-answers" else 1)
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
    assert reversible_stacks(model)[0].plan.names == ["layer 2"]
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
    assert [stack.plan.names for stack in reversible_stacks(model)] == [names for names in (encoder, decoder) if names]
    model(**batch("bart")).loss.backward()
    check_gradients(model)


def test_a_model_that_leaves_out_layers_is_refused():
    model = tiny_model("bart")
    model.config.decoder_layerdrop = 0.1
    with pytest.raises(UserError, match=r"tiny has decoder_layerdrop=0.1, .* Set decoder_layerdrop to 0"):
        prepared(meft_settings(), "bart", model=model)
