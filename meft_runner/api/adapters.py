"""Adapters in folders: written whole, and put on a base model again."""

import re
import shutil
import tempfile
from os import PathLike
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, PeftType, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from meft_runner.api.arguments import restored
from meft_runner.api.folders import AdapterFolder, folder_of, read_adapter
from meft_runner.api.making import add_adapters, couple, description, noted, undone_on_error
from meft_runner.api.mistakes import with_value_errors
from meft_runner.api.served import backbone_of, kind_of
from meft_runner.backbones import Family, inner_model
from meft_runner.config import METHODS, MeftSettings, PeftSettings, plain
from meft_runner.config.methods import KEEPS_NOTHING
from meft_runner.errors import UserError, first_line, listed, reason_of
from meft_runner.methods.adapter import Adapter
from meft_runner.methods.base_model import description_of, difference
from meft_runner.methods.layers import plain_layers
from meft_runner.methods.weights import COUPLING_NAME, WEIGHT_WRITING_ERRORS, fill, save_trained, unsaved
from meft_runner.run.portable import CARD_NAME

_NAMING = (PeftType.XLORA,)  # a method whose configuration names other adapters, which are fetched
# Settings that have to be the same where weights are put into a model that is prepared already.
_OF_RESULTS = (
    "scale_1", "scale_2", "mu", "merge", "grid_bits", "adapter_dim", "adapter_factor", "frozen_layers",
)  # fmt: skip
_HERE = {**KEEPS_NOTHING, "kernels": "auto"}  # whatever the machine was like that they were trained on


@with_value_errors
def save_adapter(model: nn.Module, folder: str | PathLike[str]) -> None:
    """Writes what trains in a model to a folder: adapter_model.safetensors, adapter_config.json and what they need.

    A peft model's are peft's own files, which `PeftModel.from_pretrained` puts on the plain model; coupling.json says
    how its layers were coupled. Files of an earlier adapter in the folder are replaced when all new ones are written;
    a README.md stays.

    Args:
        model: that `make_reversible` has changed, or a peft model.
        folder: is made where it is missing.

    Raises:
        ValueError: the model has no adapter, something trains that peft does not save, or the folder cannot be written.
    """
    if not isinstance(model, PeftModel) and not (isinstance(model, PreTrainedModel) and _has_meft(model)):
        raise UserError(
            f"model: this {type(model).__name__} has no adapter. Give the model that make_reversible or "
            "peft.get_peft_model has returned, not one that is wrapped."
        )
    if isinstance(model, PeftModel) and len(model.peft_config) > 1:
        raise UserError(
            f"model: it has {len(model.peft_config)} adapters ({', '.join(model.peft_config)}), and a folder has one. "
            "Call model.save_pretrained(folder), or model.delete_adapter(name) first."
        )
    if not isinstance(model, PeftModel) and not _adapters_train(model):
        raise UserError(
            "model: its adapters do not require gradient, and what trains is saved. Save it before it is frozen."
        )
    if isinstance(model, PeftModel) and (left_out := unsaved(model)):
        raise UserError(
            f"model: {listed(left_out)} train and are not in peft's files. Name their modules in the peft "
            "configuration (modules_to_save=[...]), or freeze them."
        )
    _write(model, folder_of(folder))


@with_value_errors
def load_adapter(base: nn.Module, folder: str | PathLike[str]) -> nn.Module:
    """Puts a saved adapter on its base model, in place; layers are coupled as they were in training.

    Args:
        base: the plain model as `from_pretrained` loads it, with the head that was trained; or one that was prepared
            in the same way.
        folder: that `save_adapter` has written, a run's `adapter`, or peft for a method that trains inside layers.

    Returns:
        The model in evaluation mode: a peft model around the base where the folder is peft's, the base itself where it
        is MEFT's. What was trained can be trained further, after `model.train()`.

    Raises:
        ValueError: the folder cannot be read, or belongs to another base model, method or width.
    """
    found = read_adapter(folder_of(folder))
    inner = inner_model(base)
    made = noted(inner)
    if isinstance(inner, PreTrainedModel):
        own = description_of(inner) if made is None else made.base
        if (differing := difference(found.base, own, found.weights)) is not None:
            raise UserError(
                f"folder={folder}: made for another base model ({differing}). Load the one it was made for."
            )
    if isinstance(base, PeftModel) or made is not None:
        _check_same_method(base, found)
        _fill(base, found)
        return base.eval()
    model, family = backbone_of(base)
    with undone_on_error(model, family):
        return (_with_peft if found.kind else _with_meft)(model, family, found).eval()


def _with_peft(base: PreTrainedModel, family: Family, found: AdapterFolder) -> nn.Module:
    """Returns a peft model around a plain one, with the weights of a folder."""
    config = _config_of(found)
    config.inference_mode = False
    try:
        if config.is_prompt_learning or config.peft_type in _NAMING or getattr(config, "megatron_config", None):
            raise ValueError("peft may import or fetch what such a file names; PeftModel.from_pretrained does")
        model = get_peft_model(base, config)
    except (AttributeError, KeyError, TypeError, ValueError, re.error) as error:
        raise UserError(f"folder={found.path}: peft cannot put it on this model ({first_line(error)}).") from error
    assert isinstance(model, PeftModel)
    try:
        if found.coupled:
            couple(model, base, family, restored(PeftSettings, {**found.method, **_HERE}))
        _fill(model, found)
    except BaseException:
        with plain_layers(model):
            model.unload()
        raise
    return model


def _with_meft(base: PreTrainedModel, family: Family, found: AdapterFolder) -> nn.Module:
    """Returns a plain model with the adapters of a folder."""
    names = [str(name) for name in (found.method["name"], found.method.get("variant")) if name is not None]
    if any(METHODS.get(name) is not MeftSettings for name in names):
        raise UserError(f"folder={found.path}: is of method={names[-1]}, which has no adapter of this program.")
    add_adapters(base, family, restored(MeftSettings, {**found.method, **_HERE}))
    for name, parameter in base.named_parameters():
        if name in found.weights:  # what a user has let train besides
            parameter.requires_grad_(True)
    _fill(base, found)
    return base


def _fill(model: nn.Module, found: AdapterFolder) -> None:
    """Puts the weights of a folder into a model that has a place for each of them."""
    try:
        differing = fill(model, found.weights)
    except KeyError as error:  # peft saves some wrapped modules under names that it does not load
        differing = f"peft finds no place for {first_line(error)}"
    if differing is not None:
        raise UserError(
            f"folder={found.path}: its weights do not fit this model ({differing}). Give the base model with the head "
            "and the settings that they were trained with."
        )


def _check_same_method(model: nn.Module, found: AdapterFolder) -> None:
    """Makes sure that a model was prepared as the one was whose adapter is in a folder."""
    made = noted(inner_model(model))
    then, now = found.method, {} if made is None else plain(made.method)
    kinds = [
        kind or str(settings.get("variant") or settings.get("name"))
        for kind, settings in ((found.kind, then), (kind_of(model) if isinstance(model, PeftModel) else None, now))
    ]
    differing = [f"the method is {kinds[0]} there and {kinds[1]} here"] if kinds[0] != kinds[1] else [
        f"{name} is {then.get(name)} there and {now.get(name)} here" for name in _OF_RESULTS
        if (found.coupled or made is not None) and then.get(name) != now.get(name)
    ]  # fmt: skip
    if not differing and isinstance(model, PeftModel):
        there, here = (_numbers(config) for config in (_config_of(found), model.active_peft_config))
        differing = [f"{name} is {there.get(name)} there and {value} here" for name, value in here.items()
                     if there.get(name) != value]  # fmt: skip
    if differing:
        raise UserError(
            f"folder={found.path}: made by other settings ({', '.join(differing[:3])}). Give the plain base model, "
            "which is prepared by those of the folder."
        )


def _config_of(found: AdapterFolder) -> PeftConfig:
    try:
        return PeftConfig.from_pretrained(str(found.path))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"folder={found.path}: is not as peft writes it ({first_line(error)}).") from error


def _numbers(config: PeftConfig) -> dict[str, Any]:
    """Returns what of a configuration the weights' shapes do not say, such as lora_alpha, but for how it trains."""
    return {
        name: value for name, value in config.to_dict().items()
        if (isinstance(value, int | float) or name.endswith("_pattern"))
        and not name.startswith(("init", "inference")) and "dropout" not in name
    }  # fmt: skip


def _adapters_train(model: nn.Module) -> bool:
    adapters = (module for module in model.modules() if isinstance(module, Adapter))
    return all(parameter.requires_grad for adapter in adapters for parameter in adapter.parameters())


def _has_meft(model: PreTrainedModel) -> bool:
    made = noted(model)  # what peft has given back still notes how its layers are coupled
    return made is not None and isinstance(made.method, MeftSettings)


def _write(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    """Writes the files of an adapter beside the folder and moves them into it, one that is there already or a new one.

    Args:
        model: a prepared model.
        folder: where its files will be.
    """
    written = set()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".adapter.", suffix=".tmp", dir=folder))
        try:
            save_trained(model, temporary, {} if noted(inner_model(model)) is None else description(model))
            # peft gives an adapter with a name of its own a folder inside
            for file in sorted(file for file in temporary.rglob("*") if file.is_file()):
                if file.name == CARD_NAME and (folder / CARD_NAME).exists():
                    continue  # a user's own, where peft would write an empty form
                file.replace(folder / file.name)
                written.add(file.name)
            if COUPLING_NAME not in written:  # of an earlier adapter
                (folder / COUPLING_NAME).unlink(missing_ok=True)
        finally:
            shutil.rmtree(temporary)
    except WEIGHT_WRITING_ERRORS as error:
        reason = reason_of(error)
        raise UserError(f"folder={folder}: cannot be written ({reason}). Free space, or choose another.") from error
