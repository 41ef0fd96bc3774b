"""What `predict_memory` says of a model, held against a tracked step and against meft-memory."""

import threading

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    BartForSequenceClassification,
    BertForMultipleChoice,
    BertForTokenClassification,
    BertModel,
    GPT2Config,
    LlamaForCausalLM,
)

from meft_runner import make_reversible, predict_memory
from meft_runner.api.memory import PredictedMemory
from meft_runner.config import Kernel, Precision
from meft_runner.memory import AUTOCAST, probe
from meft_runner.memory_report.case import Case
from meft_runner.memory_report.prediction import predict
from tests.helpers.composed import settings
from tests.helpers.models import (
    KINDS,
    MODELS,
    batch,
    in_form,
    meft_settings,
    peft_settings,
    prepared,
    tiny_config,
    tiny_model,
)

COLUMNS = ("parameters", "gradients", "optimizer", "activations", "peak", "host")
READY = {
    "full": tiny_model,
    "meft3": lambda kind: prepared(meft_settings("meft3"), kind),
    "lora": lambda kind: prepared(peft_settings("lora", "off"), kind),
    "dora reversed": lambda kind: prepared(peft_settings("dora", stored_layers=1), kind),
    "ia3 in nf4": lambda kind: prepared(peft_settings("ia3"), kind, form="nf4"),
}


def assert_tracked(model, found, inputs, precision="fp32"):
    """Holds a prediction against a step that is tracked."""
    tracked = probe(model, inputs, AUTOCAST[precision])
    for name in ("parameters", "gradients", "optimizer", "host"):
        assert getattr(found, name) == getattr(tracked, f"{name}_bytes"), name
    for name in ("activations", "peak"):
        assert getattr(found, name) == pytest.approx(getattr(tracked, f"{name}_bytes"), rel=0.01), name


def sizes(inputs):
    ids = inputs.get("input_ids")
    return (
        {"batch": len(inputs["pixel_values"])}
        if ids is None
        else dict(zip(("batch", "length"), ids.shape, strict=True))
    )


def whole(kind):
    """A batch without padding, of a language model with a label for each token."""
    inputs = batch(kind, padding=None)
    return inputs | ({"labels": inputs["input_ids"]} if kind.endswith("-answers") else {})


def text(model, rows=4, length=12):
    """Inputs of one length for a model with labels of tokens."""
    ids = torch.randint(5, 100, (rows, length), generator=torch.Generator().manual_seed(2))
    return {"input_ids": ids, "labels": ids % model.config.num_labels if model.config.num_labels < 3 else ids}


@pytest.mark.parametrize("ready", [
    "meft3", *(pytest.param(name, marks=pytest.mark.slow) for name in READY if name != "meft3"),
])  # fmt: skip
@pytest.mark.parametrize("kind", [
    "bert", "bart", *(pytest.param(kind, marks=pytest.mark.slow) for kind in MODELS if kind not in ("bert", "bart")),
])  # fmt: skip
@pytest.mark.thin(2)
def test_a_model_is_predicted_as_it_is(kind, ready):
    model, inputs = READY[ready](kind), whole(kind)
    assert_tracked(model, predict_memory(model, **sizes(inputs)), inputs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["meft1", "lora", "meft3_start"])
def test_a_method_s_step_is_predicted_before_it_prepares_the_model(kind, method):
    model, inputs = tiny_model(kind), whole(kind)
    given = {"reversal": "exact"} if method == "lora" else {}
    found = predict_memory(model, method=method, precision="bf16", **given, **sizes(inputs))
    lora = method == "lora"
    ready = prepared(peft_settings(), kind, model=model) if lora else make_reversible(model, method=method)
    assert found.peak == pytest.approx(probe(ready, inputs, torch.bfloat16).peak_bytes, rel=0.01)


def test_a_language_model_of_transformers_has_its_logits_in_memory():
    model = LlamaForCausalLM(tiny_config("llama"))
    adapted = get_peft_model(model, LoraConfig(target_modules="all-linear"))
    inputs = text(model)
    found = predict_memory(adapted, reversal="exact", chunks=2, **sizes(inputs))  # the model stays as it is
    assert_tracked(make_reversible(adapted, chunks=2), found, inputs)


@pytest.mark.slow
def test_labels_of_tokens_and_weights_in_another_form():
    model = BertForTokenClassification(tiny_config("bert"))
    assert_tracked(model, predict_memory(model, **sizes(text(model))), text(model))
    quantised, inputs = in_form(tiny_model("llama"), "nf4"), batch("llama", padding=None)
    found = predict_memory(quantised, method="meft1", **sizes(inputs))
    assert_tracked(make_reversible(quantised, method="meft1"), found, inputs)


@pytest.mark.parametrize(("backbone", "typed", "given"), [
    ("bert", ["method=meft1", "method.chunks=2"], {"method": "meft1", "chunks": 2}),
    *(pytest.param(*each, marks=pytest.mark.slow) for each in [
        ("roberta_base", ["method=lora", "method.reversal=exact"], {"method": "lora", "reversal": "exact"}),
        ("bert", ["method=dora", "method.checkpointing=true"], {"method": "dora", "checkpointing": True}),
        ("bart_base", ["method=full"], {}),
        ("vit", ["method=meft3", "method.offload=true", "task=svhn"], {"method": "meft3", "offload": True}),
    ]),
])  # fmt: skip
def test_a_configuration_needs_what_meft_memory_says(backbone, typed, given):
    chosen = settings(f"backbone={backbone}", *typed)
    length = None if backbone == "vit" else 64
    case = Case(chosen.backbone, chosen.method, 4, length, Precision.bf16, Kernel.flash, depth=2)
    config = case.config()
    expected = predict(case)
    found = predict_memory(config, batch=4, length=length, precision="bf16", attention="flash", **given)
    assert [getattr(found, name) for name in COLUMNS] == [expected[f"{name}_bytes"] for name in COLUMNS]


def test_memory_in_words():
    found = PredictedMemory(2**30, 2**20, 0, 3 * 2**28, 2**31 - 2**28 + 2**20, 5)
    assert str(found) == (
        "peak 1.8GiB = parameters 1GiB + gradients 1MiB + optimizer 0MiB + activations 768MiB; "
        "0.1MiB in the host's memory"
    )


def bert(**given):
    return {"model": tiny_config("bert"), "batch": 2, "length": 4, **given}


def holding(name, value):
    model = tiny_model()
    setattr(model, name, value)
    return model


@pytest.mark.parametrize(("given", "message"), [
    (lambda: bert(model=holding("forward", print)), r"model: its forward pass has been replaced, as trainers and"),
    (lambda: bert(model=holding("lock", threading.Lock())), r"model: it holds what cannot be copied \(cannot pickle"),
    (lambda: bert(model=holding("lock", threading.Lock()), method="meft1"), r"model: it holds what cannot be copied"),
    (lambda: bert(model=torch.compile(tiny_model())), r"model: expected a model of transformers .* OptimizedModule\."),
    (lambda: bert(model=3), r"model: expected a model of transformers or its configuration, not int\."),
    (lambda: bert(model=torch.nn.Linear(2, 2)), r"model: expected .*, not Linear\."),
    (lambda: bert(model=GPT2Config()), r"model: models of type gpt2 are not served, only bart, bert, "),
    (lambda: bert(model=BertModel(tiny_config())), r"model: BertModel has no loss .* Give the model with the head"),
    (lambda: bert(model=BertForMultipleChoice(tiny_config())), r"model: BertForMultipleChoice has no loss "),
    (lambda: bert(model=tiny_config(hidden=65)), r"model: bert cannot be made with these sizes \(.*65"),
    (lambda: bert(model=tiny_model().requires_grad_(False)), r"model: none of its parameters requires gradient"),
    (lambda: bert(batch=0), r"batch=0: expected a whole number, 1 to 1000000000\."),
    (lambda: bert(batch=True), r"batch=True: expected a whole number"),
    (lambda: bert(length=2.0), r"length=2.0: expected a whole number"),
    (lambda: bert(length=None), r"length: expected how many tokens a row has, 1 to 66\."),
    (lambda: bert(length=67), r"length=67: BertForSequenceClassification reads at most 66 tokens\."),
    (lambda: bert(model=tiny_model("vit")), r"length=4: ViTForImageClassification reads images, .* Leave it out\."),
    (lambda: bert(precision="bf61"), r"precision=bf61: did you mean 'bf16'\? expected fp32 or bf16 or fp16\."),
    (lambda: bert(precision=["bf16"]), r"precision=\['bf16'\]: did you mean 'bf16'\? expected fp32 or bf16 or fp16\."),
    (lambda: bert(method=["lora"]), r"method=\['lora'\]: no such method, .* expected one of full, .*meft1, "),
    (lambda: bert(method="lroa"), r"method=lroa: no such method, did you mean 'lora'\?"),
    (lambda: bert(attention="sdpa"), r"attention=sdpa: expected materialised or flash\."),
    (lambda: bert(head="lm"), r"head=lm: expected classification or span\."),
    (lambda: bert(weights="bf16", method="lora"), r"weights=bf16: with precision=fp32 .* Set precision=bf16\."),
    (lambda: bert(weights="nf4"), r"weights=nf4: method=full trains the weights themselves"),
    (lambda: bert(model=tiny_model(), weights="nf4"), r"weights=nf4: the model has its own\. Leave it out, or give"),
    (lambda: bert(method="mef1"), r"method=mef1: no such method, did you mean 'meft1'\?"),
    (lambda: bert(method="meft1", adapter_dim=0), r"^adapter_dim=0: expected 1 to 1000000\."),
    (lambda: bert(method="lora", adapter_dim=4), r"adapter_dim: no such argument, .*expected one of alpha, "),
    (lambda: bert(method="lora", start_from="runs/x"), r"start_from: no such argument, .*expected one of alpha, "),
    (lambda: bert(adapter_dim=4), r"method: a plain model needs one of meft1, "),
    (lambda: bert(method="lora", reversal="exact", checkpointing=True), r"^checkpointing=true: with reversal=exact"),
    (lambda: bert(model=prepared(meft_settings()), method="meft1"), r"method: the model is reversible already"),
    (lambda: bert(model=prepared(peft_settings("lora", "off")), method="lora"), r"method=lora: peft has prepared"),
    (lambda: bert(batch=10**9, method="meft1", reversal="stored"), r"batch=1000000000: 2 layers, each computed in"),
    (lambda: bert(model=BartForSequenceClassification(tiny_config("bart")), batch=10**6), r"batch=1000000: bart looks"),
])  # fmt: skip
def test_what_cannot_be_predicted(given, message):
    with pytest.raises(ValueError, match=message) as told:
        predict_memory(**given())
    assert str(told.value).count("\n") < 2


def test_prediction_leaves_the_model_and_random_numbers_alone():
    model, state = tiny_model().eval(), torch.get_rng_state()
    names, config = list(model.state_dict()), model.config.to_dict()
    predict_memory(model, batch=2, length=4, method="meft1")
    assert list(model.state_dict()) == names
    assert model.config.to_dict() == config
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
