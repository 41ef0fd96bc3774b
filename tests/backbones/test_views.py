"""A family's stages rebuild the Hugging Face layer bit for bit."""

from functools import partial

import pytest
import torch
from transformers import DebertaV2ForSequenceClassification

from meft_runner.backbones import UnsupportedInputError
from meft_runner.methods.adapter import Adapter
from meft_runner.reversible import BlockInputs
from tests.helpers.models import batch, family_of, meft_settings, prepared, tiny_config, tiny_model

# Every layer list of every family: the kind of model, and the place of the list.
STACKS = [
    ("bert", 0), ("roberta", 0), ("bart", 0), ("bart", 1), ("opt", 0), ("opt-postln", 0), ("vit", 0), ("deit", 0),
    ("llama", 0), ("mistral", 0), ("qwen2", 0), ("qwen3", 0), ("deberta", 0),
]  # fmt: skip
EACH_STACK = pytest.mark.parametrize(("kind", "place"), STACKS, ids=[f"{kind}-{place}" for kind, place in STACKS])


def zero_adapter(hidden):
    adapter = Adapter(hidden, 4, "gelu", dropout=0.0)
    torch.nn.init.zeros_(adapter.up.weight)
    return adapter


def as_tuple(result):
    return (result,) if isinstance(result, torch.Tensor) else result


def attention_block(view, layer, x, inputs, adapter=None):
    """A view's attention block, a whole batch at a time."""
    read = ()
    for stage in view.attention:
        given = (x, *read) if stage.tokenwise or stage is view.attention[0] else read
        read = as_tuple(stage.run(layer, *given, inputs))
    return view.attention_end(layer, x, *read, adapter)


def layer_and_inputs(model, kind, place=0, padding="right"):
    calls = []
    view = family_of(kind).views[place]
    layer = view.layers(model)[1]
    layer.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    model(**batch(kind, padding=padding))
    return view, layer, *calls[0]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padding", ["right", "left", None])
@EACH_STACK
@pytest.mark.parametrize("with_adapters", [False, True])
@pytest.mark.thin(3)
def test_blocks_equal_the_layer(kind, place, attention, padding, training, with_adapters):
    model = tiny_model(kind, attention=attention).train(training)
    assert_equal_to_the_layer(*layer_and_inputs(model, kind, place, padding), with_adapters)


def assert_equal_to_the_layer(view, layer, args, kwargs, with_adapters=False):
    """Holds a view's stages against a layer, as its model called it."""
    hidden, *args = args
    adapter = zero_adapter(hidden.shape[-1]) if with_adapters else None
    inputs = view.block_inputs(*args, **kwargs)
    torch.manual_seed(7)
    expected = layer(hidden, *args, **kwargs)
    torch.manual_seed(7)
    attended = attention_block(view, layer, hidden, inputs, adapter)
    found = view.result(view.mlp_block(layer, attended, adapter))
    if isinstance(expected, tuple):  # with the attention, which nobody asked for
        (found, nothing), (expected, _) = found, expected
        assert nothing is None
    assert torch.equal(found, expected)


@EACH_STACK
def test_tokenwise_stages_read_each_token_by_itself(kind, place):
    model = tiny_model(kind).eval()
    view, layer, (x, *args), kwargs = layer_and_inputs(model, kind, place)
    inputs, read = view.block_inputs(*args, **kwargs), ()
    pieces = [slice(0, 5), slice(5, 12), slice(12, x.shape[0] * x.shape[1])]

    def tokens(tensor, piece=slice(None)):
        return tensor.expand(*x.shape[:2], -1).reshape(-1, 1, tensor.shape[-1])[piece]

    def assert_by_itself(run, given, whole):
        rotary = {name: getattr(inputs, name) for name in ("cos", "sin") if inputs.cos is not None}
        found = [
            run(
                *(tokens(each, piece) for each in given),
                BlockInputs(**{n: tokens(t, piece) for n, t in rotary.items()}),
            )
            for piece in pieces
        ]
        for parts, expected in zip(zip(*map(as_tuple, found), strict=True), as_tuple(whole), strict=True):
            assert torch.allclose(torch.cat(parts), tokens(expected), atol=1e-6)

    for stage in view.attention:
        given = (x, *read) if stage.tokenwise or stage is view.attention[0] else read
        read = as_tuple(stage.run(layer, *given, inputs))
        if stage.tokenwise:
            assert_by_itself(partial(stage.run, layer), given, read)
    assert kind == "deberta" or view.attention[0].tokenwise
    attended = view.attention_end(layer, x, *read, None)
    assert_by_itself(lambda *given: view.attention_end(layer, *given[:-1], None), (x, *read), attended)
    result = view.mlp_block(layer, attended, None)
    assert_by_itself(lambda x, _: view.mlp_block(layer, x, None), (attended,), result)


@pytest.mark.parametrize("changed", [
    {"share_att_key": False}, {"pos_att_type": []}, {"pos_att_type": ["c2p"]}, {"norm_rel_ebd": "none"},
    {"position_buckets": -1}, {"relative_attention": False}, {"position_biased_input": True, "type_vocab_size": 2},
], ids=str)  # fmt: skip
def test_every_form_of_debertas_attention(changed):
    config = tiny_config("deberta")
    for name, value in changed.items():
        setattr(config, name, value)
    assert_equal_to_the_layer(*layer_and_inputs(DebertaV2ForSequenceClassification(config).train(), "deberta"))


@pytest.mark.parametrize("kind", ["bert", "bart", "opt"])
def test_masks_reach_the_record(kind):
    view, _, (_, *args), kwargs = layer_and_inputs(tiny_model(kind), kind, -1, "left")
    inputs = view.block_inputs(*args, **kwargs)
    if kind == "bart":  # its decoder's own attention is causal without a mask
        assert inputs.encoder_states is not None
        assert inputs.encoder_mask is not None
    else:
        assert inputs.attention_mask is not None


def what_adapters_read(kind, place, x, inputs):
    """Returns what a view's adapters were given, and the two blocks' results with adapters that return 1."""
    view = family_of(kind).views[place]
    layer = view.layers(tiny_model(kind).eval())[0]
    seen = []

    def spy(value):
        seen.append(value)
        return torch.ones_like(value)

    attended = attention_block(view, layer, x, inputs, spy)
    return layer, seen, attended, view.mlp_block(layer, attended, spy)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_adapter_reads_what_the_paper_says(kind):
    x = torch.randn(2, 5, 64)
    layer, seen, attended, _ = what_adapters_read(kind, 0, x, BlockInputs())
    o = layer.attention.output.dense(layer.attention.self(x)[0])
    assert torch.equal(seen[0], o)
    assert torch.allclose(attended, layer.attention.output.LayerNorm(o + 1 + x))
    assert seen[1] is attended


@pytest.mark.parametrize("kind", ["opt", "vit"])
def test_pre_ln_adapters_read_behind_the_layer_norm(kind):
    x = torch.randn(2, 5, 64)
    layer, seen, attended, result = what_adapters_read(kind, 0, x, BlockInputs())
    if kind == "opt":
        o, read = layer.self_attn(layer.self_attn_layer_norm(x))[0], layer.final_layer_norm(attended)
        mlp = layer.fc2(layer.activation_fn(layer.fc1(read)))
    else:
        o, read = layer.attention(layer.layernorm_before(x))[0], layer.layernorm_after(attended)
        mlp = layer.mlp(read)
    assert torch.equal(seen[0], o)
    assert torch.allclose(attended, x + o + 1, atol=1e-6)
    assert torch.equal(seen[1], read)
    assert torch.allclose(result, attended + mlp + 1, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_adapters_of_llamas_layer_read_behind_the_norm(kind):
    x, rotary = torch.randn(2, 5, 64), torch.randn(2, 1, 5, 16 if kind == "llama" else 32)
    layer, seen, attended, result = what_adapters_read(kind, 0, x, BlockInputs(cos=rotary[0], sin=rotary[1]))
    o = layer.self_attn(layer.input_layernorm(x), tuple(rotary), None)[0]
    read = layer.post_attention_layernorm(attended)
    assert torch.equal(seen[0], o)
    assert torch.allclose(attended, x + o + 1, atol=1e-6)
    assert torch.equal(seen[1], read)
    assert torch.allclose(result, attended + layer.mlp(read) + 1, atol=1e-6)


def test_barts_decoder_adapter_stands_behind_the_attention_to_the_encoder():
    x, states = torch.randn(2, 5, 64), torch.randn(2, 7, 64)
    layer, seen, attended, _ = what_adapters_read("bart", 1, x, BlockInputs(encoder_states=states))
    own = layer.self_attn_layer_norm(x + layer.self_attn(x)[0])
    o = layer.encoder_attn(own, key_value_states=states)[0]
    assert torch.equal(seen[0], o)
    assert torch.allclose(attended, layer.encoder_attn_layer_norm(own + o + 1), atol=1e-6)
    assert seen[1] is attended


def test_an_input_that_is_not_carried_is_refused():
    model = prepared(meft_settings())
    stack_layer = model.bert.encoder.layer[0]
    with pytest.raises(UnsupportedInputError, match="'encoder_hidden_states'"):
        stack_layer(torch.randn(2, 5, 64), encoder_hidden_states=torch.randn(2, 3, 64))
    with pytest.raises(UnsupportedInputError, match="'something_new'"):
        stack_layer(torch.randn(2, 5, 64), something_new=1)


@pytest.mark.parametrize("kind", ["bart", "opt"])
def test_keys_kept_for_generation_are_refused(kind):
    model = prepared(meft_settings(), kind).eval()
    inputs = {name: value for name, value in batch(kind).items() if name != "labels"}
    with pytest.raises(UnsupportedInputError, match="'past_key_values'"):
        model(**inputs, use_cache=True)
