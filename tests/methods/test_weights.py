import json

import pytest
import torch
from safetensors.torch import load_file

from meft_runner.config import FullSettings, Ia3Settings, LoraSettings
from meft_runner.errors import UserError
from meft_runner.methods.weights import load_trained, save_trained
from tests.helpers.models import VARIANTS, batch, gradients, meft_settings, prepared

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


def test_weights_of_another_method_are_refused(tmp_path):
    save_trained(prepared(METHODS["meft1"]), tmp_path, {})
    with pytest.raises(UserError, match="do not belong to this backbone and method"):
        load_trained(prepared(METHODS["meft3"]), tmp_path)
