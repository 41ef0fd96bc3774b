"""Trained weights in peft's file form: adapter_config.json and adapter_model.safetensors."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from meft_runner.errors import UserError, first_line
from meft_runner.methods.layers import plain_layers

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
        with plain_layers(model):  # the names that peft itself knows
            model.save_pretrained(str(directory))
        return
    weights = {name: weight.contiguous() for name, weight in _trained(model).items()}
    save_file(weights, directory / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    (directory / CONFIG_NAME).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_trained(model: nn.Module, directory: Path) -> None:
    """Loads into a model prepared in the same way what `save_trained` wrote.

    Raises:
        UserError: a file is missing or damaged, or holds other weights than this model trains.
    """
    file = directory / SAFETENSORS_WEIGHTS_NAME
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{file}: cannot be read ({first_line(error)}). Remove the folder {directory} to train again."
        ) from error
    with plain_layers(model) if isinstance(model, PeftModel) else nullcontext():
        _load(model, directory, weights)


def _load(model: nn.Module, directory: Path, weights: dict[str, Tensor]) -> None:
    saved = get_peft_model_state_dict(model) if isinstance(model, PeftModel) else _trained(model)
    wrong = sorted(
        name for name in weights.keys() | saved.keys()
        if name not in weights or name not in saved or weights[name].shape != saved[name].shape
    )  # fmt: skip
    if wrong:
        raise UserError(
            f"{directory}: its weights do not belong to this backbone and method ({len(wrong)} differ, {wrong[0]} "
            "among them). Take the settings that they were trained with, or remove the folder to train again."
        )
    if isinstance(model, PeftModel):
        set_peft_model_state_dict(model, weights)
    else:
        model.load_state_dict(weights, strict=False)


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
