"""`float` mode computes the published formulas, held against an independent, naive implementation."""

import pytest
import torch

from tests.helpers.models import VARIANTS, batch, gradients, meft_settings, prepared


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


def naive_stack(variant, stack, h0, mask):
    """The equations of the paper, one block at a time, in plain floating point."""
    x1 = x2 = h0
    for block in stack.blocks:
        if variant == "meft1":
            y1 = 0.1 * x1 + whole_layer(block.f, x2, mask)
            y2 = x2 + adapter(block.g, y1)
        elif variant == "meft2":
            y1 = x1 + adapter(block.f, x2)
            y2 = 0.1 * x2 + whole_layer(block.g, y1, mask)
        else:
            y1 = 0.1 * x1 + attention(block.f.layer, x2, mask, block.f.adapter)
            y2 = 0.1 * x2 + mlp(block.g.layer, y1, block.g.adapter)
        x1, x2 = (y1, y2) if variant == "meft3" else (y2, y1)
    return 0.3 * x1 + 0.7 * x2


@pytest.mark.parametrize("variant", VARIANTS)
def test_float_mode_computes_the_published_formulas(variant):
    # One layer less than where the float inverse itself would show: the forward has no such limit.
    model = prepared(meft_settings(variant, "float", merge=[0.3, 0.7]), layers=2, dropout=0.0).double()
    inputs = batch()
    logits = model(**inputs).logits
    torch.nn.functional.cross_entropy(logits, inputs["labels"]).backward()
    found = gradients(model)
    model.zero_grad()

    embedded = model.bert.embeddings(inputs["input_ids"])
    stack = model.bert.encoder.layer[0].stack
    hidden = naive_stack(variant, stack, embedded, inputs["attention_mask"])
    expected_logits = model.classifier(model.bert.pooler(hidden))
    torch.nn.functional.cross_entropy(expected_logits, inputs["labels"]).backward()

    assert torch.allclose(logits, expected_logits, rtol=0, atol=1e-10)
    for name, gradient in gradients(model).items():
        assert torch.allclose(found[name], gradient, rtol=0, atol=1e-10), name
