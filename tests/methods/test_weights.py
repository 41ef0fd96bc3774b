import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from meft_runner.backbones.family import TASK_HEADS
from meft_runner.config import FullSettings, Ia3Settings, LoraSettings
from meft_runner.errors import UserError
from meft_runner.methods.weights import load_trained, save_trained, start_from_trained
from tests.helpers.models import VARIANTS, batch, gradients, meft_settings, move_away, prepared

METHODS = {
    "full": FullSettings(name="full", learning_rate=1e-3),
    "lora": LoraSettings(name="lora", learning_rate=1e-3),
    "ia3": Ia3Settings(name="ia3", learning_rate=1e-3),
} | {variant: meft_settings(variant) for variant in VARIANTS}


@pytest.mark.parametrize("name", METHODS)
def test_trained_weights_load_back_to_bit_equal_logits(name, tmp_path):
    model = prepared(METHODS[name])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    model(**batch()).loss.backward()
    optimizer.step()
    save_trained(model, tmp_path, {"peft_type": name.upper()})

    fresh = prepared(METHODS[name])
    torch.manual_seed(99)
    for parameter in fresh.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    load_trained(fresh, tmp_path)
    with torch.no_grad():
        assert torch.equal(fresh.eval()(**batch()).logits, model.eval()(**batch()).logits)


@pytest.mark.parametrize("name", METHODS)
def test_files_hold_trained_weights_only(name, tmp_path):
    model = prepared(METHODS[name])
    model(**batch()).loss.backward()
    save_trained(model, tmp_path, {"peft_type": name.upper()})
    weights = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(w.numel() for w in weights.values()) == sum(g.numel() for g in gradients(model).values())
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == name.upper()


FOREIGN = [("meft1", "meft3"), ("meft3", "lora"), ("lora", "ia3"), ("ia3", "full"), ("full", "meft2")]


@pytest.mark.parametrize(("trained", "asked"), FOREIGN)
def test_weights_of_another_method_are_refused(trained, asked, tmp_path):
    save_trained(prepared(METHODS[trained]), tmp_path, {})
    with pytest.raises(UserError, match=r"do not belong to this backbone and method .*Take the settings that") as told:
        load_trained(prepared(METHODS[asked]), tmp_path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["meft1", "lora"])
def test_weights_of_another_width_are_refused(name, tmp_path):
    save_trained(prepared(METHODS[name]), tmp_path, {})
    wider = {"adapter_dim": 16} if name == "meft1" else {"rank": 16}
    with pytest.raises(UserError, match="do not belong to this backbone and method"):
        load_trained(prepared(replace(METHODS[name], **wider)), tmp_path)


@pytest.mark.parametrize("damage", [
    lambda file: file.unlink(),
    lambda file: file.write_bytes(b""),
    lambda file: file.write_bytes(file.read_bytes()[:-8]),
    lambda file: file.write_bytes(b"\x10" * 100),
    lambda file: file.unlink() or file.symlink_to("/nowhere/at/all"),
    lambda file: file.unlink() or file.mkdir(),
])  # fmt: skip
@pytest.mark.parametrize("name", ["meft1", "lora", "full"])
def test_damaged_weights_are_refused(name, damage, tmp_path):
    save_trained(prepared(METHODS[name]), tmp_path, {})
    damage(tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"adapter_model.safetensors: cannot be read \(.+\). Remove the folder") as told:
        load_trained(prepared(METHODS[name]), tmp_path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["full", "lora", "meft1"])
@pytest.mark.parametrize("kinds", [("bart", "bart-span"), ("deberta", "deberta-span"), ("llama", "llama-answers")])
def test_a_model_starts_from_weights_of_another_head(name, kinds, tmp_path):
    """All but what stands on the base model for one task."""
    earlier, later = kinds
    trained = move_away(prepared(METHODS[name], earlier))
    save_trained(trained, tmp_path, {})
    weights = load_file(tmp_path / "adapter_model.safetensors")
    model = prepared(METHODS[name], later)
    before = {key: parameter.clone() for key, parameter in model.named_parameters()}
    taken, anew = start_from_trained(model, tmp_path, with_head=False)
    save_trained(model, tmp_path / "later", {})
    found = load_file(tmp_path / "later" / "adapter_model.safetensors")
    assert taken == len(found.keys() & weights.keys()) > 0
    assert all(torch.equal(found[key], weights[key]) for key in found.keys() & weights.keys())
    assert set(anew) == found.keys() - weights.keys()
    changed = {key for key, parameter in model.named_parameters() if not torch.equal(parameter, before[key])}
    assert not any(key.split(".")[0] in TASK_HEADS for key in changed)
