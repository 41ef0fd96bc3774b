"""Which models can be made reversible: what is looked at before anything of a model is changed."""

from typing import Any

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from meft_runner.backbones import FAMILIES, Family, inner_model
from meft_runner.config import BackboneSettings, Norm
from meft_runner.config.directory import read_group
from meft_runner.config.methods import adds_tokens
from meft_runner.errors import UserError, listed
from meft_runner.memory.kernels import FUSED
from meft_runner.methods.layers import reversible_stacks

_ATTENTION = ("sdpa", "eager", FUSED)  # that read a mask of every token; the last one is predicted alone
_QUANTISED = ("bitsandbytes",)  # whose layers the tests hold against stored activations
# Paths in a layer, "" for itself, of what the families' views run piece by piece: its own forward pass is not called.
_TAKEN_APART = ("", "self_attn", "encoder_attn", "attention", "attention.self", "attention.output", "output")
_KNOWN = "transformers.models."  # views stand for the forward passes of these files
_OF_ROWS = ("XLORA", "POLY")  # methods of peft whose layers need to know the row of each token


def backbone_of(model: Any) -> tuple[PreTrainedModel, Family]:
    """Returns the transformers model that can be made reversible, also inside a peft model, and its family.

    Raises:
        UserError: it is of another kind, or in a state in which its layers cannot be reversed.
    """
    _check_peft(model)
    inner = inner_model(model)
    if not isinstance(inner, PreTrainedModel):
        wrapped = hasattr(model, "_orig_mod") or isinstance(getattr(model, "module", None), nn.Module)
        fix = " Give it before it is wrapped or compiled." if wrapped else ""
        if isinstance(model, str):
            fix = " Load it by from_pretrained first."
        raise UserError(
            f"model: expected a model of transformers, or of peft around one, not {type(model).__name__}.{fix}"
        )
    family = family_of(inner.config)
    if reversible_stacks(inner):
        raise UserError("model: it is reversible already. Give a model as it was loaded.")
    _check_layers(inner, family)
    _check_state(inner)
    return inner, family


def family_of(config: PreTrainedConfig) -> Family:
    """Returns the family of a model of this configuration.

    Raises:
        UserError: there is none.
    """
    if config.model_type not in FAMILIES:
        raise UserError(f"model: models of type {config.model_type} are not served, only {', '.join(FAMILIES)}.")
    return FAMILIES[config.model_type]


def kind_of(model: PeftModel) -> str:
    """Returns what the method of a peft model is called, as lora."""
    config = next(iter(model.peft_config.values()))
    return str(getattr(config.peft_type, "value", config.peft_type)).lower()


def settings_of_backbone(model: PreTrainedModel) -> BackboneSettings:
    """Returns what methods need to know of a model beside its family: what messages call it, and its norm."""
    kinds = read_group("backbone").values()
    norm = next(each["norm"] for each in kinds if model.config.model_type in each["model_types"])
    return BackboneSettings(
        name=type(model).__name__,
        model_types=[model.config.model_type],
        heads=[],
        hub=model.config.name_or_path or "",
        norm=Norm[norm],
    )


def _check_peft(model: Any) -> None:
    if not isinstance(model, PeftModel):
        if getattr(model, "_hf_peft_config_loaded", False):
            raise UserError("model: its adapters were added by add_adapter. Give peft.get_peft_model(model, config).")
        if isinstance(model, nn.Module) and any(isinstance(module, BaseTunerLayer) for module in model.modules()):
            raise UserError("model: peft has put adapters inside. Give the model that peft has returned, or a new one.")
        return
    for config in model.peft_config.values():
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        if config.is_prompt_learning or adds_tokens(kind):
            raise UserError(
                f"model: peft's {kind} adds tokens to a row, and a reversible layer returns as many as it gets. "
                "Take a method that trains inside layers, such as LoRA."
            )
        if kind in _OF_ROWS or getattr(config, "alora_invocation_tokens", None):
            raise UserError(
                f"model: this form of peft's {kind} treats the rows of a batch differently, and reversible layers "
                "compute some rows at a time. Take a method that treats all alike, such as LoRA."
            )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(
            "model: nothing in it trains. Give is_trainable=True to PeftModel.from_pretrained, or load the adapter by "
            "meft_runner.load_adapter."
        )


def _check_layers(model: PreTrainedModel, family: Family) -> None:
    """Makes sure that a model's layers are where its family has them, and are those of transformers."""
    name = type(model).__name__
    for view in family.views:
        try:
            layers = view.layers(model)
        except (AttributeError, AssertionError):
            raise UserError(f"model: {name} has no layers at {view.path}, and is not served.") from None
        if not len(layers):
            raise UserError(f"model: {name} has no layers.")
        for layer in layers:
            _check_parts(layer, name)


def _check_parts(layer: nn.Module, model: str) -> None:
    """Makes sure that what is taken apart in a layer, and not called, would run nothing else if it were."""
    parts = dict(layer.named_modules())
    for part in (parts[path] for path in _TAKEN_APART if path in parts):
        kind = type(part)
        places = (kind.__module__, getattr(kind.forward, "__module__", ""))
        known = all(place.startswith(_KNOWN) for place in places) or isinstance(part, AuxiliaryTrainingWrapper)
        if "forward" in vars(part) or not known:  # peft's wrapper around what it trains whole only hands calls on
            raise UserError(
                f"model: {kind.__name__} in the layers of this {model} has a forward pass of its own, which a reversal "
                "would not run. Give the model as transformers makes it, on one device."
            )
        of_backward = part._backward_hooks or part._backward_pre_hooks
        if part._forward_pre_hooks or of_backward or any(map(_is_users, part._forward_hooks.values())):
            raise UserError(
                f"model: there are hooks on {kind.__name__} in the layers of this {model}, which a reversal would not "
                "call. Remove them, or register them on the projections and norms inside."
            )


def _is_users(hook: Any) -> bool:
    """Tells a user's hook from those that transformers leaves where it was asked for hidden states before."""
    return not str(getattr(hook, "__module__", "")).startswith("transformers.")


def _check_state(model: PreTrainedModel) -> None:
    if model.is_activation_checkpointing:
        raise UserError(
            "model: gradient checkpointing is on, and reversible layers keep nothing to compute again. Call "
            "model.gradient_checkpointing_disable(), or give use_gradient_checkpointing=False where peft prepares it."
        )
    if model.config._attn_implementation not in _ATTENTION:
        raise UserError(
            f"model: its attention is {model.config._attn_implementation}, which finds padding and packed texts in "
            "arguments that reversible layers do not carry. Load it with attn_implementation='sdpa', or 'eager'."
        )
    if len(set(getattr(model, "hf_device_map", {}).values())) > 1:
        raise UserError("model: it is spread over several devices. Load it without device_map, or onto one device.")
    method = getattr(getattr(model, "quantization_method", None), "value", None)
    if method is not None and method not in _QUANTISED:
        raise UserError(
            f"model: its weights are quantised by {method}, whose kernels need not repeat their results. "
            f"Take {listed(_QUANTISED)}'s nf4 or int8, or plain weights."
        )
