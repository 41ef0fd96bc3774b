import pytest
import torch

from meft_runner.settings import FullSettings, Ia3Settings, LoraSettings
from meft_runner.training import GradientError, check_gradients
from tests.models import KINDS, batch, gradients, prepared, tiny_model

METHODS = {"full": FullSettings, "lora": LoraSettings, "ia3": Ia3Settings}


def method(name, **kwargs):
    return METHODS[name](name=name, learning_rate=1e-3, **kwargs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", METHODS)
def test_every_trainable_parameter_gets_a_gradient(name, kind):
    model = prepared(method(name), kind)
    model(**batch(kind)).loss.backward()
    check_gradients(model)


def trained_names(name, kind="bert"):
    return {n for n, p in prepared(method(name), kind).named_parameters() if p.requires_grad}


def test_full_trains_everything():
    assert trained_names("full") == {name for name, _ in tiny_model().named_parameters()}


def test_lora_updates_query_and_value():
    names = trained_names("lora")
    assert len(names) == 2 * 2 * 2 + 2  # two layers, two projections, two matrices; weight and bias of the head
    assert all(part in name for name in names if "lora" in name for part in ["attention.self."])
    assert not any(".key." in name for name in names)


@pytest.mark.parametrize(
    ("kind", "attentions"), [("opt", 1), ("vit", 1), ("deit", 1), ("bart", 3)]
)  # BART's decoder has two
@pytest.mark.parametrize("name", ["lora", "ia3"])
def test_the_same_parts_are_adapted_in_every_family(name, kind, attentions):
    added = [n for n in trained_names(name, kind) if "lora" in n or "ia3" in n]
    mlps = 2 if kind == "bart" else 1
    assert len(added) == 2 * (attentions * 2 * 2 if name == "lora" else attentions * 2 + mlps)  # two layers


def test_ia3_rescales_keys_values_and_the_inner_mlp():
    model = prepared(method("ia3"))
    vectors = {n: p for n, p in model.named_parameters() if "ia3" in n}
    assert len(vectors) == 2 * 3
    assert {v.shape for n, v in vectors.items() if ".layer.0.output.dense" in n} == {torch.Size([1, 128])}
    assert not any("attention.output" in name for name in vectors)


@pytest.mark.parametrize("name", METHODS)
def test_checkpointing_changes_no_gradient(name):
    found = []
    for checkpointing in (False, True):
        model = prepared(method(name, checkpointing=checkpointing))
        torch.manual_seed(3)
        model(**batch()).loss.backward()
        found.append(gradients(model))
    assert found[0].keys() == found[1].keys()
    assert all(torch.allclose(found[0][key], found[1][key], atol=1e-7) for key in found[0])


def test_a_parameter_without_gradient_is_named():
    model = prepared(method("full"))
    model(**batch()).loss.backward()
    model.classifier.bias.grad = None
    model.classifier.weight.grad.zero_()
    with pytest.raises(GradientError, match=r"2 trainable .* classifier.weight \(zero\), classifier.bias \(none\)"):
        check_gradients(model)
