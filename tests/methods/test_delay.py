"""Layers that run in a delay coupling stay peft's: the adapter's files, the plain model inside, what is refused."""

import subprocess
import sys

import pytest
import torch
from peft import IA3Config, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file

from meft_runner.errors import UserError
from meft_runner.methods.delay import make_layers_reversible
from meft_runner.methods.layers import plain_layers, reversible_stacks
from meft_runner.methods.weights import load_trained, save_trained
from meft_runner.run.callbacks import check_gradients
from tests.helpers.models import (
    KINDS,
    PEFT_METHODS,
    backbone_settings,
    batch,
    family_of,
    gradients,
    move_away,
    peft_settings,
    prepared,
    tiny_model,
)

FEW_KINDS = pytest.mark.parametrize("kind", ["bert", "bart", "opt-answers", "vit"])
EVERY_METHOD = pytest.mark.parametrize("name", PEFT_METHODS)
FILE = "adapter_model.safetensors"


def trained(name, kind="bert", reversal="exact"):
    return move_away(prepared(peft_settings(name, reversal), kind)).eval()


def outputs(model, kind="bert"):
    """The loss and all outputs for a batch, in one vector."""
    with torch.no_grad():
        found = model.eval()(**batch(kind))
    return torch.cat([value.flatten() for value in found.values() if torch.is_tensor(value)])


@EVERY_METHOD
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.thin(2)
def test_the_same_parameters_train_as_without_reversal(name, kind):
    reversed_, plain = trained(name, kind), trained(name, kind, "off")
    reversed_.train()(**batch(kind)).loss.backward()
    check_gradients(reversed_)
    found, expected = ([p for p in model.parameters() if p.requires_grad] for model in (reversed_, plain))
    assert sum(p.numel() for p in found) == sum(p.numel() for p in expected)
    assert all(stack.mode == "exact" for stack in reversible_stacks(reversed_))
    assert len(reversible_stacks(reversed_)) == len(family_of(kind).views)


@EVERY_METHOD
@FEW_KINDS
def test_an_adapter_loads_in_peft_alone(name, kind, tmp_path):
    model, plain = trained(name, kind), trained(name, kind, "off")
    save_trained(model, tmp_path / "reversed", {})
    save_trained(plain, tmp_path / "plain", {})
    alone = PeftModel.from_pretrained(tiny_model(kind), tmp_path / "reversed").eval()
    with plain_layers(model):
        assert torch.equal(outputs(alone, kind), outputs(model, kind))
    assert torch.equal(outputs(alone, kind), outputs(plain, kind))
    assert not torch.equal(outputs(alone, kind), outputs(model, kind))  # the coupling is a part of the trained model
    found, expected = (load_file(tmp_path / folder / FILE) for folder in ("reversed", "plain"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    configs = [(tmp_path / folder / "adapter_config.json").read_text() for folder in ("reversed", "plain")]
    assert configs[0] == configs[1]


ALONE = """
import sys
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

for folder in sys.argv[1:]:
    model = AutoModelForSequenceClassification.from_pretrained(f"{folder}/base", num_labels=2)
    model = PeftModel.from_pretrained(model, f"{folder}/adapter").eval()
    with torch.no_grad():
        save_file({"logits": model(**load_file(f"{folder}/batch.safetensors")).logits}, f"{folder}/found.safetensors")
assert not any(name.startswith("meft_runner") for name in sys.modules)
"""


@pytest.mark.slow
def test_an_adapter_loads_in_a_process_that_knows_peft_alone(tmp_path):
    expected = {}
    for name in PEFT_METHODS:
        for kind in ("bert", "bart"):
            folder = tmp_path / f"{name}-{kind}"
            tiny_model(kind).save_pretrained(folder / "base")
            model = trained(name, kind)
            save_trained(model, folder / "adapter", {})
            save_file(batch(kind), folder / "batch.safetensors")
            with plain_layers(model), torch.no_grad():
                expected[folder] = model(**batch(kind)).logits
    command = [sys.executable, "-c", ALONE, *map(str, expected)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    for folder, logits in expected.items():
        assert torch.equal(load_file(folder / "found.safetensors")["logits"], logits)


@EVERY_METHOD
@pytest.mark.parametrize("kind", ["bert", "bart"])
def test_an_adapter_loads_back_into_a_reversed_model(name, kind, tmp_path):
    model = trained(name, kind)
    save_trained(model, tmp_path, {})
    for reversal in ("exact", "stored"):
        fresh = move_away(prepared(peft_settings(name, reversal), kind), seed=9)
        load_trained(fresh, tmp_path)
        assert torch.equal(outputs(fresh, kind), outputs(model, kind))


@EVERY_METHOD
@FEW_KINDS
def test_the_plain_model_for_a_while(name, kind):
    model, plain = trained(name, kind), trained(name, kind, "off")
    coupled, names = outputs(model, kind), list(model.state_dict())
    with plain_layers(model):
        assert list(model.state_dict()) == list(plain.state_dict())
        assert torch.equal(outputs(model, kind), outputs(plain, kind))
        with plain_layers(model):  # nothing is left to exchange
            assert torch.equal(outputs(model, kind), outputs(plain, kind))
        model.train()
    assert list(model.state_dict()) == names
    assert all(
        module.training for module in reversible_stacks(model)[0].modules() if isinstance(module, torch.nn.Dropout)
    )
    assert torch.equal(outputs(model, kind), coupled)


def test_the_layers_are_coupled_again_after_an_error():
    model = trained("lora", "bart")
    coupled, names = outputs(model, "bart"), list(model.state_dict())
    with pytest.raises(ZeroDivisionError), plain_layers(model):
        _ = 1 / 0
    assert list(model.state_dict()) == names
    assert torch.equal(outputs(model, "bart"), coupled)


def test_the_plain_layers_of_a_model_without_stacks():
    model = trained("lora", reversal="off")
    before = outputs(model)
    with plain_layers(model):
        assert torch.equal(outputs(model), before)


def test_a_model_that_leaves_out_layers_is_refused():
    model = tiny_model("bart")
    model.config.encoder_layerdrop = 0.1
    with pytest.raises(UserError, match=r"method.reversal=exact: tiny has encoder_layerdrop=0.1, .* to 0") as told:
        prepared(peft_settings("lora"), "bart", model=model)
    assert "\n" not in str(told.value)


def test_a_model_whose_layers_read_different_masks_is_refused():
    model = tiny_model("qwen3")
    model.config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(
        UserError, match=r"method.reversal=exact: tiny has layers of full_attention and .* one."
    ) as told:
        prepared(peft_settings("lora"), "qwen3", model=model)
    assert "\n" not in str(told.value)
    prepared(peft_settings("lora", reversal="off"), "qwen3", model=model)


def test_a_method_that_adds_tokens_is_refused():
    model = tiny_model()
    prompted = get_peft_model(model, PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4))
    with pytest.raises(UserError, match=r"it adds tokens to a row.* Take method.reversal=off") as told:
        make_layers_reversible(prompted, model, family_of(), backbone_settings(), peft_settings())
    assert "\n" not in str(told.value)
    assert not reversible_stacks(prompted)


def test_another_method_of_peft_is_made_reversible():
    """Any method that trains inside layers; here (IA)^3 of the value projections alone, by peft itself."""
    model = tiny_model()
    adapted = get_peft_model(model, IA3Config(target_modules=["value"], feedforward_modules=[]))
    make_layers_reversible(adapted, model, family_of(), backbone_settings(), peft_settings())
    adapted.train()(**batch()).loss.backward()
    assert all(gradient.any() for gradient in gradients(adapted).values())
    assert reversible_stacks(adapted)[0].monitor.mismatches == 0
