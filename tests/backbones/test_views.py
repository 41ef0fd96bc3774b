"""A family's two functions rebuild the Hugging Face layer bit for bit."""

import pytest
import torch

from meft_runner.backbones import FAMILIES, UnsupportedInputError
from meft_runner.methods.adapter import Adapter
from meft_runner.reversible import BlockInputs
from tests.models import batch, meft_settings, prepared, tiny_model


def zero_adapter(hidden):
    adapter = Adapter(hidden, 4, "gelu", dropout=0.0)
    torch.nn.init.zeros_(adapter.up.weight)
    return adapter


def layer_and_inputs(model_type, attention, training):
    model = tiny_model(model_type, attention=attention).train(training)
    calls = []
    layer = FAMILIES[model_type].layer_list(model)[1]
    layer.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    inputs = batch()
    inputs.pop("labels")
    model(**inputs)
    return layer, *calls[0]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("with_adapters", [False, True])
def test_blocks_equal_the_layer(model_type, attention, training, with_adapters):
    family = FAMILIES[model_type]
    layer, (hidden, *args), kwargs = layer_and_inputs(model_type, attention, training)
    adapter = zero_adapter(hidden.shape[-1]) if with_adapters else None
    inputs = family.block_inputs(*args, **kwargs)
    assert inputs.attention_mask is not None
    torch.manual_seed(7)
    expected = layer(hidden, *args, **kwargs)
    torch.manual_seed(7)
    attended = family.attention_block(layer, hidden, inputs, adapter)
    assert torch.equal(family.mlp_block(layer, attended, inputs, adapter), expected)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_adapter_reads_what_the_paper_says(model_type):
    family = FAMILIES[model_type]
    layer = family.layer_list(tiny_model(model_type).eval())[0]
    x = torch.randn(2, 5, 64)
    seen = []

    def spy(value):
        seen.append(value)
        return torch.ones_like(value)

    attended = family.attention_block(layer, x, BlockInputs(), spy)
    o = layer.attention.output.dense(layer.attention.self(x)[0])
    assert torch.equal(seen[0], o)
    assert torch.allclose(attended, layer.attention.output.LayerNorm(o + 1 + x))
    family.mlp_block(layer, attended, BlockInputs(), spy)
    assert seen[1] is attended


def test_an_input_that_is_not_carried_is_refused():
    model = prepared(meft_settings())
    stack_layer = model.bert.encoder.layer[0]
    with pytest.raises(UnsupportedInputError, match="'encoder_hidden_states'"):
        stack_layer(torch.randn(2, 5, 64), encoder_hidden_states=torch.randn(2, 3, 64))
    with pytest.raises(UnsupportedInputError, match="'something_new'"):
        stack_layer(torch.randn(2, 5, 64), something_new=1)
