"""How a model is changed, once it is known that it can be and by which settings; and what is noted on it."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from meft_runner.api.served import settings_of_backbone
from meft_runner.backbones import Family, StackLayer, inner_model
from meft_runner.backbones.stack_layer import LayerList
from meft_runner.backbones.weights import settle
from meft_runner.config import MeftSettings, PeftSettings, plain
from meft_runner.files import write_whole
from meft_runner.methods.base_model import description_of
from meft_runner.methods.delay import make_layers_reversible
from meft_runner.methods.layers import plain_layers
from meft_runner.methods.peft_methods import keep_input_dtype
from meft_runner.methods.prepare import check_kernels, prepare
from meft_runner.methods.stored import check_stored, store_layers
from meft_runner.methods.weights import COUPLING_NAME

# Classes of transformers whose loss divides by `num_items_in_batch` where the Trainer gives it. Others may, or not.
_COUNTING = ("ForCausalLM", "LMHeadModel")


@dataclass(frozen=True)
class Made:
    """What a model was made by.

    Attributes:
        method: the settings.
        base: what it was before, see `description_of`.
    """

    method: MeftSettings | PeftSettings
    base: dict[str, Any]


def noted(model: nn.Module) -> Made | None:
    """Returns what a transformers model was made by, None where it was not made reversible here."""
    made: Made | None = getattr(model, "_made_reversible", None)
    return made


def description(model: PreTrainedModel | PeftModel) -> dict[str, Any]:
    """Returns what a folder says of an adapter of a model that was made reversible: its base model and settings."""
    inner = inner_model(model)
    made = noted(inner)
    assert made is not None
    return {
        "base_model_name_or_path": inner.config.name_or_path, "method": plain(made.method), "base": made.base,
    }  # fmt: skip


def couple(model: PeftModel, inner: PreTrainedModel, family: Family, settings: PeftSettings) -> None:
    """Ties the layers of a model that peft has prepared, in place.

    Raises:
        UserError: its layers, or this machine, do not allow it; the model is as it was.
    """
    backbone, base = settings_of_backbone(inner), description_of(inner)
    check_kernels(settings, inner.device)
    check_stored(family.depth(inner), backbone, settings.stored_layers)
    family.finish_model(inner)
    make_layers_reversible(model, inner, family, backbone, settings)
    store_layers(model, settings.stored_layers)
    if getattr(inner, "is_quantized", False):
        keep_input_dtype(model)
    attributes: Any = model
    attributes.save_pretrained = partial(_save_pretrained, model)
    attributes.load_adapter = partial(_with_plain_layers, model, "load_adapter")
    attributes.add_adapter = partial(_with_plain_layers, model, "add_adapter")
    _finish(model, inner, Made(settings, base))


def add_adapters(model: PreTrainedModel, family: Family, settings: MeftSettings) -> None:
    """Freezes a plain model and ties its layers with adapters beside them, in place.

    Raises:
        UserError: its layers, or this machine, do not allow it; the model is as it was.
    """
    backbone, base = settings_of_backbone(model), description_of(model)
    check_kernels(settings, model.device)
    check_stored(max(1, family.depth(model) - settings.frozen_layers), backbone, settings.stored_layers)
    prepare(model, family, backbone, settings)
    _train_heads(model)
    _finish(model, model, Made(settings, base))


@contextmanager
def undone_on_error(model: PreTrainedModel, family: Family) -> Iterator[None]:
    """Gives a plain model back as it was where something goes wrong inside, after its layers have been exchanged."""
    layers = [(view, list(view.layers(model))) for view in family.views]
    were = [(parameter, parameter.requires_grad, parameter.dtype) for parameter in model.parameters()]
    cached = getattr(model.config, "use_cache", None)
    hooks = [(module._forward_pre_hooks, dict(module._forward_pre_hooks)) for module in model.modules()]
    try:
        yield
    except BaseException:
        for view, before in layers:
            view.replace_layers(model, before)
        for parameter, flag, dtype in were:
            parameter.data = parameter.data.to(dtype)
            parameter.requires_grad_(flag)
        for now, earlier in hooks:
            for handle in now.keys() - earlier.keys():
                del now[handle]
        for name in ("_made_reversible", "activation_checkpointing_enable", "accepts_loss_kwargs"):
            vars(model).pop(name, None)
        if cached is not None:
            model.config.use_cache = cached
        raise


def _finish(model: nn.Module, inner: PreTrainedModel, made: Made) -> None:
    """Tells what others ask of a model, and notes what it was made by."""
    attributes: Any = inner  # torch types each of them as a tensor or a module
    # The Trainer goes by the keywords of a forward pass, and takes losses for divided by the tokens of all accumulated
    # passes that are means of one pass; where it is told otherwise it divides them by the passes.
    attributes.accepts_loss_kwargs = type(inner).__name__.endswith(_COUNTING)
    attributes.activation_checkpointing_enable = _leave_checkpointing_off
    attributes._made_reversible = made
    if getattr(inner.config, "use_cache", False):
        inner.config.use_cache = False  # keys and values are kept for generation only
    layers = (layer for stacked in inner.modules() if isinstance(stacked, StackLayer) for layer in stacked.replaced)
    own = {id(module) for layer in layers for module in layer.modules()}
    for module in inner.modules():
        if isinstance(module, LayerList):
            for new in module.modules():
                if id(new) not in own:  # the layers stay in the modes that they were in
                    new.training = model.training


def _leave_checkpointing_off(*args: Any, **kwargs: Any) -> None:
    """Takes the place of the method that trainers call, whose checkpoints reversible layers would not run through."""
    message = "gradient checkpointing stays off: the layers are reversible, and keep nothing to compute again"
    warnings.warn(message, stacklevel=2)


def _save_pretrained(model: PeftModel, save_directory: str, *args: Any, **kwargs: Any) -> None:
    """Saves adapters under the names that peft's files have, each with a note of how layers are coupled."""
    with plain_layers(model):
        type(model).save_pretrained(model, save_directory, *args, **kwargs)
    if kwargs.get("is_main_process", True):
        content = json.dumps(description(model), indent=2) + "\n"
        for name in kwargs.get("selected_adapters") or model.peft_config:
            inside = "" if name == "default" else name
            write_whole(Path(save_directory, inside, COUPLING_NAME), content)


def _with_plain_layers(model: PeftModel, method: str, *args: Any, **kwargs: Any) -> Any:
    """Calls a method of peft that goes by the names of modules."""
    with plain_layers(model):
        return getattr(type(model), method)(model, *args, **kwargs)


def _train_heads(model: PreTrainedModel) -> None:
    """Lets heads train, a user's own as well, in float32; a projection to the vocabulary stays as it was before."""
    settle(model)
    words = model.get_output_embeddings()
    for child in model.children():
        if model.base_model not in (child, model) and not any(module is words for module in child.modules()):
            child.float().requires_grad_(True)
            child.register_forward_pre_hook(_read_in_own_dtype)


def _read_in_own_dtype(head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Gives a head its own dtype where the layers below are of another and no autocast converts for it."""
    read, own = args[0] if args else None, next(head.parameters(), None)
    if not isinstance(read, Tensor) or not read.is_floating_point() or torch.is_autocast_enabled(read.device.type):
        return None
    return None if own is None else (read.to(own.dtype), *args[1:])
