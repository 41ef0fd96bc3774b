import numpy as np
import pytest
import torch

from meft_runner.backbones.repeat import repeat_layers, set_depth
from meft_runner.methods.layers import reversible_stacks
from tests.helpers.models import KINDS, batch, family_of, meft_settings, prepared, tiny_config, tiny_model


def repeated(times, kind="bert", **kwargs):
    model = tiny_model(kind, **kwargs).eval()
    repeat_layers(model, family_of(kind), times)
    return model


def outputs(model, kind):
    with torch.no_grad():
        return next(value for name, value in model(**batch(kind)).items() if name != "loss")


@pytest.mark.parametrize("kind", KINDS)
def test_once_changes_nothing(kind):
    model, plain = repeated(1, kind), tiny_model(kind).eval()
    assert model.config.to_dict() == plain.config.to_dict()
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(outputs(model, kind), outputs(plain, kind))


def test_berts_layers_are_applied_again_and_again():
    model, plain = repeated(3), tiny_model().eval()
    inputs = batch(padding=None)
    hidden = plain.bert.embeddings(inputs["input_ids"])
    for _ in range(3):
        for layer in plain.bert.encoder.layer:
            hidden = layer(hidden)
    expected = plain.classifier(plain.bert.pooler(hidden))
    assert torch.equal(model(**inputs).logits, expected)
    assert not torch.equal(plain(**inputs).logits, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_every_stack_grows_and_its_copies_have_the_same_weights_but_their_own(kind):
    model, plain = repeated(2, kind), tiny_model(kind)
    for view in family_of(kind).views:
        layers, own = view.layers(model), view.layers(plain)
        assert len(layers) == 4
        for place, layer in enumerate(layers):
            expected = own[place % 2].state_dict()
            assert all(torch.equal(tensor, expected[name]) for name, tensor in layer.state_dict().items())
    expected_parameters = sum(
        p.numel() * (2 if any(f".{view.path}." in f".{name}" for view in family_of(kind).views) else 1)
        for name, p in plain.named_parameters()
    )
    assert sum(p.numel() for p in model.parameters()) == expected_parameters


@pytest.mark.parametrize("kind", KINDS)
def test_the_configuration_tells_the_depth_and_stays_one(kind):
    model, plain = repeated(3, kind), tiny_model(kind)
    names = ["encoder_layers", "decoder_layers"] if kind.startswith("bart") else ["num_hidden_layers"]
    names += ["layer_types"] if kind.startswith("qwen") else []
    changed = {name for name, value in model.config.to_dict().items() if value != plain.config.to_dict()[name]}
    assert changed - {"num_hidden_layers"} == set(names) - {"num_hidden_layers"}  # BART: another name of the encoder's
    assert model.config.num_hidden_layers == 6
    assert all(np.shape(value) == (6,) or value == 6 for value in (getattr(model.config, name) for name in names))
    configurations = [module.config for module in model.modules() if hasattr(module, "config")]
    assert all(configuration is model.config for configuration in configurations)


@pytest.mark.parametrize("depth", [1, 5])
def test_each_layer_of_another_depth_knows_how_it_attends(depth):
    config = tiny_config("qwen3")
    config.layer_types = ["full_attention", "sliding_attention"]
    set_depth(config, depth)
    assert config.num_hidden_layers == depth
    assert config.layer_types == (["full_attention", "sliding_attention"] * 3)[:depth]


def test_opts_keys_and_values_are_kept_for_each_layer():
    base = repeated(2, "opt").base_model
    ids = batch("opt", padding=None)["input_ids"]
    with torch.no_grad():
        whole = base(ids, use_cache=False).last_hidden_state
        first = base(ids[:, :-1], use_cache=True)
        last = base(ids[:, -1:], past_key_values=first.past_key_values, use_cache=True).last_hidden_state
    assert torch.allclose(last[:, 0], whole[:, -1], atol=1e-5)


def test_barts_keys_and_values_are_kept_for_each_layer():
    base = repeated(2, "bart").base_model
    ids = batch("bart", padding=None)["input_ids"]
    with torch.no_grad():
        encoded = base.encoder(ids)
        whole = base(encoder_outputs=encoded, decoder_input_ids=ids, use_cache=False).last_hidden_state
        first = base(encoder_outputs=encoded, decoder_input_ids=ids[:, :-1], use_cache=True)
        last = base(
            encoder_outputs=encoded,
            decoder_input_ids=ids[:, -1:],
            past_key_values=first.past_key_values,
            use_cache=True,
        ).last_hidden_state
    assert torch.allclose(last[:, 0], whole[:, -1], atol=1e-5)


def test_reversible_layers_are_named_by_their_place():
    model = prepared(meft_settings(frozen_layers=1), model=repeated(2))
    assert [block.name for block in reversible_stacks(model)[0].blocks] == ["layer 1", "layer 2", "layer 3"]
    model = prepared(meft_settings(), "bart", model=repeated(2, "bart"))
    names = [f"{part} layer {index}" for part in ("encoder", "decoder") for index in range(4)]
    assert [block.name for stack in reversible_stacks(model) for block in stack.blocks] == names
