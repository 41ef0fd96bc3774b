"""`float` mode computes the published formulas, held against an independent, naive implementation."""

import pytest
import torch

from tests.helpers.models import VARIANTS, batch, gradients, meft_settings, prepared, tiny_model


def adapter(module, x):
    return module.up(torch.nn.functional.gelu(module.down(x)))


def attention(layer, x, mask, extra=None):
    own = layer.attention.self
    b, s, h = x.shape
    heads = own.num_attention_heads

    def split(linear):
        return linear(x).view(b, s, heads, h // heads).transpose(1, 2)

    scores = split(own.query) @ split(own.key).transpose(2, 3) / (h // heads) ** 0.5
    scores = scores.masked_fill(mask[:, None, None, :] == 0, float("-inf"))
    context = (scores.softmax(-1) @ split(own.value)).transpose(1, 2).reshape(b, s, h)
    o = layer.attention.output.dense(context)
    if extra is not None:
        o = o + adapter(extra, o)
    return layer.attention.output.LayerNorm(o + x)


def mlp(layer, x, extra=None):
    y = layer.output.dense(torch.nn.functional.gelu(layer.intermediate.dense(x)))
    if extra is not None:
        y = y + adapter(extra, x)
    return layer.output.LayerNorm(y + x)


def whole_layer(composed, x, mask):
    layer, beside = composed.second.layer, composed.second.adapter
    return mlp(layer, attention(layer, x, mask), beside)


def naive_stack(variant, stack, h0, mask, scale=0.1, mu=1.0, merge=(0.3, 0.7)):
    """The equations of the paper, one block at a time, in plain floating point; mu weighs what a scaled stream gets."""
    x1 = x2 = h0
    for block in stack.blocks:
        if variant == "meft1":
            y1 = scale * x1 + mu * whole_layer(block.f, x2, mask)
            y2 = x2 + adapter(block.g, y1)
        elif variant == "meft2":
            y1 = x1 + adapter(block.f, x2)
            y2 = scale * x2 + mu * whole_layer(block.g, y1, mask)
        else:
            y1 = scale * x1 + mu * attention(block.f.layer, x2, mask, block.f.adapter)
            y2 = scale * x2 + mu * mlp(block.g.layer, y1, block.g.adapter)
        x1, x2 = (y1, y2) if variant == "meft3" else (y2, y1)
    return merge[0] * x1 + merge[1] * x2


def one_step(model, inputs, hidden=None):
    """Returns logits and gradients, through the model or from last hidden states."""
    logits = model(**inputs).logits if hidden is None else model.classifier(model.bert.pooler(hidden))
    torch.nn.functional.cross_entropy(logits, inputs["labels"]).backward()
    found = gradients(model)
    model.zero_grad()
    return logits, found


def check_formula(variant, model, tolerance, **weights):
    """Holds a model's logits and gradients against the equations."""
    inputs = batch()
    logits, found = one_step(model, inputs)
    embedded = model.bert.embeddings(inputs["input_ids"])
    stack = model.bert.encoder.layer[0].stack
    hidden = naive_stack(variant, stack, embedded, inputs["attention_mask"], **weights)
    expected_logits, expected = one_step(model, inputs, hidden)
    assert torch.allclose(logits, expected_logits, rtol=0, atol=tolerance)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=0, atol=tolerance), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_float_mode_computes_the_published_formulas(variant):
    # One layer less than where the float inverse itself would show: the forward has no such limit.
    model = prepared(meft_settings(variant, "float", merge=[0.3, 0.7]), layers=2, dropout=0.0).double()
    check_formula(variant, model, 1e-10)


SCALES = {"meft1": {"scale_1": "1/32"}, "meft2": {"scale_2": "1/32"}, "meft3": {"scale_1": "1/32", "scale_2": "1/32"}}


@pytest.mark.parametrize(("reversal", "tolerance"), [("float", 1e-9), ("stored", 1e-5), ("exact", 1e-5)])
@pytest.mark.parametrize(("mu", "number"), [("1-scale", 31 / 32), ("0.7", 0.7)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_factor_of_what_is_added(variant, mu, number, reversal, tolerance):
    settings = {"merge": [0.3, 0.7], "mu": mu, "grid_bits": 24} | SCALES[variant]
    model = prepared(meft_settings(variant, reversal, **settings), layers=2, dropout=0.0).double()
    check_formula(variant, model, tolerance, scale=1 / 32, mu=number)


@pytest.mark.parametrize(("reversal", "tolerance"), [("float", 1e-10), ("stored", 1e-5), ("exact", 1e-5)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_learned_merge_weights(variant, reversal, tolerance):
    settings = {"merge": "learned", "grid_bits": 24}
    model = prepared(meft_settings(variant, reversal, **settings), layers=2, dropout=0.0).double()
    learned = model.bert.encoder.layer[0].stack.learned_merge
    assert learned.tolist() == ([1.0, 0.0] if variant == "meft2" else [0.0, 1.0])  # the stream of whole layers
    learned.data.copy_(torch.tensor([0.4, 0.9]))
    check_formula(variant, model, tolerance, merge=learned)


@pytest.mark.parametrize("reversal", ["stored", "exact"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_adapter_times_a_factor(variant, reversal, monkeypatch):
    settings = {"merge": [0.3, 0.7], "adapter_factor": 4.0, "grid_bits": 24}
    model = prepared(meft_settings(variant, reversal, **settings), layers=2, dropout=0.0).double()
    plain = adapter
    monkeypatch.setitem(globals(), "adapter", lambda module, x: 4 * plain(module, x))
    check_formula(variant, model, 1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_adapters_that_start_as_nothing(variant):
    """Only what two layers change is seen of the coupling: with a small lambda the model is the pre-trained one."""
    settings = {"zero_start": True, "mu": "1-scale", "merge": "learned", "scale_1": "1/256", "scale_2": "1/256"}
    if variant != "meft3":
        settings |= {"scale_2" if variant == "meft1" else "scale_1": "1"}
    model, plain = prepared(meft_settings(variant, **settings), layers=4).eval(), tiny_model(layers=4).eval()
    with torch.no_grad():
        found, expected = (m.bert(batch()["input_ids"]).last_hidden_state for m in (model, plain))
    assert ((found - expected).norm() / expected.norm()).item() < 2e-3
