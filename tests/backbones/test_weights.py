"""Frozen weights in half precision and quantised: what is held how, and that it computes what it says."""

import sys

import bitsandbytes as bnb
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from meft_runner.backbones.loading import load_model
from meft_runner.backbones.repeat import repeat_layers
from meft_runner.backbones.sources import find_source
from meft_runner.backbones.weights import check_installed, count, move
from meft_runner.config import BackboneSettings, Head, Precision, WeightForm
from meft_runner.errors import UserError
from meft_runner.memory.quantised import tensors_beside
from tests.helpers.models import (
    KINDS,
    PEFT_METHODS,
    batch,
    family_of,
    gradients,
    in_form,
    meft_settings,
    peft_settings,
    prepared,
    tiny_model,
)

QUANTISED = {"nf4": bnb.nn.Linear4bit, "int8": bnb.nn.Linear8bitLt}
BOTH = pytest.mark.parametrize("form", QUANTISED)


@pytest.fixture
def folder(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    return tmp_path


def loaded(folder, form, precision="fp32", **kwargs):
    own = {"name": "bert", "model_types": ["bert"], "hub": "nobody/nothing", "path": str(folder)}
    backbone = BackboneSettings(**own, weights=WeightForm[form], **kwargs)
    return load_model(backbone, find_source(backbone), Head.classification, 2, Precision[precision])


def inputs(kind="bert"):
    return {name: tensor for name, tensor in batch(kind).items() if name != "labels"}


@BOTH
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_folder_loads_as_its_weights_quantised(form, precision, folder):
    model = loaded(folder, form, precision)
    expected = in_form(tiny_model(), form, {"fp32": None, "bf16": torch.bfloat16}[precision])
    assert model.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    found, wanted = (list(tensors_beside(each).values()) for each in (model, expected))
    assert len(found) == len(wanted) > 0
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(found, wanted, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@BOTH
def test_layers_are_quantised_and_heads_are_not(form, kind):
    model = in_form(tiny_model(kind), form, torch.bfloat16)
    (view, *_) = family_of(kind).views
    linear = [module for module in view.layers(model).modules() if isinstance(module, nn.Linear)]
    assert all(type(module) is QUANTISED[form] for module in linear)
    heads = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    known = ("classifier", "classification_head", "score", "qa_outputs", "lm_head", "pooler")
    assert all(any(part in known for part in name.split(".")) for name in heads)
    assert all(p.dtype == torch.float32 for name, p in model.named_parameters() if name.startswith(known[:4]))
    others = [p for p in model.parameters() if p.is_floating_point() and p.dtype != torch.float32]
    assert others
    assert all(p.dtype == torch.bfloat16 for p in others)
    assert sum(map(count, model.parameters())) == sum(p.numel() for p in tiny_model(kind).parameters())


def dequantised(model):
    """Puts plain layers of the dequantised weights in the places of the quantised ones."""
    for name, module in list(model.named_modules()):
        if isinstance(module, bnb.nn.Linear4bit):
            weight = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        elif isinstance(module, bnb.nn.Linear8bitLt):
            weight = bnb.functional.int8_vectorwise_dequant(module.weight.data, module.weight.SCB)
        else:
            continue
        plain = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
        plain.weight, plain.bias = nn.Parameter(weight, requires_grad=False), module.bias
        model.set_submodule(name, plain)
    return model


@pytest.mark.parametrize("kind", ["bert", "opt", "vit"])
@BOTH
def test_it_computes_what_plain_layers_of_the_dequantised_weights_do(form, kind):
    model, plain = (in_form(tiny_model(kind, dropout=0.0), form) for _ in range(2))
    original = tiny_model(kind, dropout=0.0)
    found, expected, before = (each.train()(**inputs(kind)).logits for each in (model, dequantised(plain), original))
    assert torch.allclose(found, expected, atol=2e-6)
    assert (found - before).abs().max() > 10 * (found - expected).abs().max()


@pytest.mark.parametrize("name", ["meft1", *PEFT_METHODS])
def test_gradients_are_those_beside_the_dequantised_weights(name):
    method = meft_settings() if name == "meft1" else peft_settings(name)
    quantised = prepared(method, "opt", form="nf4", dropout=0.0)
    plain = prepared(method, "opt", model=dequantised(in_form(tiny_model("opt", dropout=0.0), "nf4")))
    for model in (quantised, plain):
        model(**batch("opt")).loss.backward()
    expected = gradients(plain)
    assert expected.keys() == gradients(quantised).keys()
    for parameter, gradient in gradients(quantised).items():
        assert torch.allclose(gradient, expected[parameter], atol=1e-5, rtol=1e-3), parameter


@pytest.mark.parametrize(("form", "precision"), [("bf16", torch.bfloat16), ("nf4", None), ("nf4", torch.bfloat16),
                                                 ("int8", torch.bfloat16)], ids=str)  # fmt: skip
@pytest.mark.parametrize("reversal", ["off", "exact"])
@pytest.mark.parametrize("name", PEFT_METHODS)
@pytest.mark.thin(2)
def test_what_trains_is_float32_and_learns(name, reversal, form, precision):
    if (name, form) == ("dora", "int8"):
        pytest.skip("peft cannot, and the settings are refused")
    model = prepared(peft_settings(name, reversal), form=form, precision=precision)
    with torch.autocast("cpu", dtype=precision or torch.bfloat16, enabled=precision is not None):
        model(**batch()).loss.backward()
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())
    assert any(gradient.any() for gradient in gradients(model).values())


def test_evaluation_leaves_weights_and_gradients_as_they_are():
    fresh, used = (prepared(meft_settings(), form="nf4", dropout=0.0) for _ in range(2))
    with torch.no_grad():
        used.eval()(**batch())
    for model in (fresh, used):
        model.train()(**batch()).loss.backward()
    expected = gradients(fresh)
    assert all(torch.equal(gradient, expected[name]) for name, gradient in gradients(used).items())


@BOTH
def test_repeated_layers_have_weights_and_scales_of_their_own(form):
    model = in_form(tiny_model(dropout=0.0), form)
    repeat_layers(model, family_of(), 2)
    places = list(tensors_beside(model).values())
    assert len(places) == len({id(tensor) for _, tensor in places})
    dequantised_twice = in_form(tiny_model(dropout=0.0), form)
    repeat_layers(dequantised_twice, family_of(), 2)
    found, expected = (each.train()(**inputs()).logits for each in (model, dequantised(dequantised_twice)))
    assert torch.allclose(found, expected, atol=2e-6)
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            assert module.quant_state is module.weight.quant_state


def test_bytes_move_with_their_model():
    model = in_form(tiny_model(), "int8").eval()
    expected = in_form(tiny_model(), "int8").eval()(**inputs()).logits
    weight = model.bert.encoder.layer[0].intermediate.dense.weight
    weight.CB = torch.zeros_like(weight.data)  # as `to` leaves it: what is computed with stays on the old device
    assert move(model, torch.device("cpu")) is model
    assert weight.CB.data_ptr() == weight.data_ptr()
    assert torch.equal(model(**inputs()).logits, expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("form", ["bf16", *QUANTISED])
def test_weights_that_are_no_numbers_are_refused(form, value, folder):
    weights = load_file(folder / "model.safetensors")
    weights["bert.encoder.layer.1.output.dense.weight"][3, 4] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"no numbers \(NaN or infinite\), in bert.encoder.layer.1.output.dense.weight"):
        loaded(folder, form, "bf16")


def test_weights_that_fp16_cannot_hold_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    weights["bert.encoder.layer.1.output.dense.weight"][3, 4] = 1e5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert loaded(folder, "bf16", "bf16").dtype == torch.bfloat16
    with pytest.raises(UserError, match=r"Values above 65,504 are none in fp16: take backbone.weights=bf16"):
        loaded(folder, "fp16", "fp16")


def test_without_bitsandbytes(monkeypatch):
    check_installed(WeightForm.nf4)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_installed(WeightForm.bf16)
    with pytest.raises(UserError, match=r"weights=nf4: needs bitsandbytes.*'meft-runner\[quantised\]'") as told:
        check_installed(WeightForm.nf4)
    assert "\n" not in str(told.value)
