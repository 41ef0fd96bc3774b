"""Trained weights in peft's file form: adapter_config.json and adapter_model.safetensors."""

import json
from pathlib import Path
from typing import Any

from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from meft_runner.errors import UserError

WEIGHT_WRITING_ERRORS = (OSError, RuntimeError, SafetensorError)  # torch's writer says RuntimeError of a full disk


def save_trained(model: nn.Module, directory: Path, description: dict[str, Any]) -> None:
    """Saves what training changed, and nothing else.

    Args:
        model: a prepared model.
        directory: receives the two files.
        description: what adapter_config.json says of a model that is not peft's own.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if isinstance(model, PeftModel):
        model.save_pretrained(str(directory))
        return
    weights = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    save_file(weights, directory / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    (directory / CONFIG_NAME).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_trained(model: nn.Module, directory: Path) -> None:
    """Loads into a model prepared in the same way what `save_trained` wrote.

    Raises:
        UserError: the folder holds other weights than this model trains.
    """
    if isinstance(model, PeftModel):
        set_peft_model_state_dict(model, load_peft_weights(str(directory), device="cpu"))
        return
    weights = load_file(directory / SAFETENSORS_WEIGHTS_NAME)
    expected = {name for name, p in model.named_parameters() if p.requires_grad}
    if weights.keys() != expected:
        example = sorted(weights.keys() ^ expected)[0]
        raise UserError(
            f"{directory}: its weights do not belong to this backbone and method ({example} is in one only)."
        )
    model.load_state_dict(weights, strict=False)
