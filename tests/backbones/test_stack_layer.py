"""Files of weights know the layers of a reversible model by their own names."""

import pytest
import torch

from meft_runner.backbones import UnsupportedInputError
from tests.helpers.models import batch, meft_settings, move_away, peft_settings, prepared, tiny_model

KINDS = pytest.mark.parametrize("kind", ["bert", "bart", "opt-answers", "llama"])
METHODS = {"lora": peft_settings("lora"), "meft1": meft_settings("meft1", frozen_layers=1, merge="learned")}


@KINDS
def test_the_layers_of_peft_keep_their_names(kind):
    coupled, plain = move_away(prepared(peft_settings("lora"), kind)), prepared(peft_settings("lora", "off"), kind)
    assert list(coupled.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(coupled.state_dict())
    fresh = prepared(peft_settings("lora"), kind)
    fresh.load_state_dict(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), coupled.parameters(), strict=True))


@KINDS
def test_adapters_stand_beside_the_layers(kind):
    model, plain = move_away(prepared(METHODS["meft1"], kind)), tiny_model(kind)
    state = model.state_dict()
    assert plain.state_dict().keys() <= state.keys()
    trained = sum(parameter.requires_grad for name, parameter in model.named_parameters() if "stack" in name)
    assert len(state) == len(plain.state_dict()) + trained
    fresh = prepared(METHODS["meft1"], kind)
    fresh.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_a_missing_weight_is_missed(name):
    model = prepared(METHODS[name])
    state = model.state_dict()
    gone = next(key for key in state if "layer.1.intermediate.dense.weight" in key)
    del state[gone]
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(state)


def test_transformers_saves_and_loads_the_pretrained_part(tmp_path):
    model = move_away(prepared(METHODS["meft1"]))
    model.save_pretrained(tmp_path)
    found = type(model).from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in found.items())


@pytest.mark.parametrize("kind", ["bert", "opt-answers", "deberta"])
def test_what_single_layers_return_is_refused(kind):
    model = prepared(METHODS["meft1"], kind)
    inputs = {name: value for name, value in batch(kind).items() if name != "labels"}
    with pytest.raises(UnsupportedInputError, match="output_hidden_states"):
        model.base_model(**inputs, output_hidden_states=True)
    model.config.output_hidden_states = True
    with pytest.raises(UnsupportedInputError, match="output_hidden_states"):
        model(**inputs)
