"""Trained weights in peft's file form: adapter_config.json and adapter_model.safetensors."""

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from meft_runner.backbones.family import TASK_HEADS
from meft_runner.errors import UserError, first_line
from meft_runner.methods.base_model import WRAPPERS
from meft_runner.methods.layers import plain_layers, reversible_stacks

COUPLING_NAME = "coupling.json"
_BASE_LAYER = "base_layer"  # peft's name for what its layers wrap, whose own weights it does not save
WEIGHT_WRITING_ERRORS = (OSError, RuntimeError, SafetensorError)  # torch's writer says RuntimeError of a full disk


def save_trained(model: nn.Module, directory: Path, description: dict[str, Any]) -> None:
    """Saves what training changed, and nothing else.

    Args:
        model: a prepared model.
        directory: receives the files.
        description: what adapter_config.json says of a model that is not peft's own; of peft's, a file beside it says
            how layers are coupled.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if isinstance(model, PeftModel):
        with plain_layers(model):  # the names that peft itself knows
            model.save_pretrained(str(directory))
        if reversible_stacks(model):
            (directory / COUPLING_NAME).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        return
    weights = {name: weight.contiguous() for name, weight in _trained(model).items()}
    save_file(weights, directory / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    (directory / CONFIG_NAME).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_trained(model: nn.Module, directory: Path) -> None:
    """Loads into a model prepared in the same way what `save_trained` wrote.

    Raises:
        UserError: a file is missing or damaged, or holds other weights than this model trains.
    """
    _load(model, directory, _read(directory))


def start_from_trained(model: nn.Module, directory: Path, with_head: bool) -> tuple[int, list[str]]:
    """Loads what `save_trained` wrote of a model for the same or for another task, whose head may be another one.

    Args:
        model: prepared in the same way.
        directory: of the two files.
        with_head: whether the task's head is taken too, where its tensors have the same names and shapes.

    Returns:
        How many tensors were taken, and the names of those of the head that are as they were before.

    Raises:
        UserError: a file is missing or damaged, or holds other weights than this model trains.
    """
    weights = _read(directory)
    with _named_as_saved(model):
        saved = _saved(model)
        then, now = ({name for name in names if _is_of_head(name)} for names in (weights, saved))
        takes = with_head and then == now and all(weights[name].shape == saved[name].shape for name in now)
        taken = {name: weight for name, weight in weights.items() if takes or name not in then}
        anew = {} if takes else {name: saved[name].clone() for name in now}
    _load(model, directory, taken | anew)
    return len(taken), sorted(anew)


def _read(directory: Path) -> dict[str, Tensor]:
    file = directory / SAFETENSORS_WEIGHTS_NAME
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{file}: cannot be read ({first_line(error)}). Remove the folder {directory} to train again."
        ) from error


def _named_as_saved(model: nn.Module) -> AbstractContextManager[None]:
    """Gives the weights of a model of peft the names that peft itself knows, inside."""
    return plain_layers(model) if isinstance(model, PeftModel) else nullcontext()


def _saved(model: nn.Module) -> dict[str, Tensor]:
    return get_peft_model_state_dict(model) if isinstance(model, PeftModel) else _trained(model)


def unsaved(model: PeftModel) -> list[str]:
    """Returns the names of what trains in a peft model beside its method, and is none of what peft saves."""
    with plain_layers(model):
        saved = {
            weight.data_ptr()
            for name in model.peft_config for weight in get_peft_model_state_dict(model, adapter_name=name).values()
        }  # fmt: skip
        own = [module for module in model.modules() if isinstance(module, WRAPPERS)]
        known = {
            id(parameter)
            for module in own for name, parameter in module.named_parameters() if _BASE_LAYER not in name.split(".")
        }  # fmt: skip
        return [
            name for name, parameter in model.named_parameters()
            if parameter.requires_grad and id(parameter) not in known and parameter.data_ptr() not in saved
        ]  # fmt: skip


def _is_of_head(name: str) -> bool:
    """Tells by its saved name whether a weight stands above a base model's layers, and is trained for one task.

    Full fine-tuning trains a pooler inside the base model too, which some heads read, and a language model's own head.
    """
    parts = name.removeprefix("base_model.model.").split(".")
    return parts[0] in (*TASK_HEADS, "lm_head") or parts[1:2] == ["pooler"]


def _load(model: nn.Module, directory: Path, weights: dict[str, Tensor]) -> None:
    difference = fill(model, weights)
    if difference is not None:
        raise UserError(
            f"{directory}: its weights do not belong to this backbone and method ({difference}). Take the settings "
            "that they were trained with, or remove the folder to train again."
        )


def fill(model: nn.Module, weights: dict[str, Tensor]) -> str | None:
    """Puts weights into a prepared model if they are those that it trains; returns how they differ, None if they fit.

    Args:
        model: keeps its own where they do not fit.
        weights: as `save_trained` wrote them, by name.
    """
    with _named_as_saved(model):
        difference = _difference(weights, _saved(model))
        if difference is not None:
            return difference
        if isinstance(model, PeftModel):
            set_peft_model_state_dict(model, weights)
        else:
            model.load_state_dict(weights, strict=False)
    return None


def _difference(weights: dict[str, Tensor], own: dict[str, Tensor]) -> str | None:
    there, here = ({name: tuple(w.shape) for name, w in found.items()} for found in (weights, own))
    wrong = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    if not wrong:
        return None
    name = wrong[0]
    first = (
        f"{name} is missing there" if name not in there
        else f"{name} has no place here" if name not in here
        else f"{name} is {there[name]} there and {here[name]} here"
    )  # fmt: skip
    return first if len(wrong) == 1 else f"{first}; {len(wrong)} differ in all"


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
