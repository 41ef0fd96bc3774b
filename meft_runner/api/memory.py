"""What a training step will need, predicted before it is run: of a model as it is, or of one that a method prepares."""

import copy
from dataclasses import dataclass, fields
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from meft_runner.api.arguments import run_settings
from meft_runner.api.mistakes import with_value_errors
from meft_runner.api.reversal import MEFT, make_reversible
from meft_runner.api.served import backbone_of, family_of, settings_of_backbone
from meft_runner.api.steps import copying, predicted_step
from meft_runner.backbones import inner_model
from meft_runner.config import METHODS, Head, Kernel, MethodSettings, Precision, WeightForm
from meft_runner.config.checks import weights_hindrance
from meft_runner.config.sizes import written_bytes
from meft_runner.errors import UserError, nearest, one_of
from meft_runner.memory import AUTOCAST
from meft_runner.memory.twin import on_meta
from meft_runner.memory_report.case import fitting_sizes
from meft_runner.memory_report.prediction import blank_model
from meft_runner.methods.layers import reversible_stacks
from meft_runner.methods.prepare import prepare


@dataclass(frozen=True)
class PredictedMemory:
    """What a training step needs, in bytes; the first four add up to the peak.

    Attributes:
        parameters: parameters and buffers, those that are quantised with their scales.
        gradients: gradients that parameters hold at the moment of the peak.
        optimizer: AdamW's state.
        activations: everything else that is alive at that moment.
        peak: the peak.
        host: what waits in the host's memory for the backward pass, beside all of these.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    peak: int
    host: int

    def __str__(self) -> str:
        """Returns the figures as a line, rounded up."""
        names = ("parameters", "gradients", "optimizer", "activations")
        parts = " + ".join(f"{name} {written_bytes(getattr(self, name))}" for name in names)
        beside = f"; {written_bytes(self.host)} in the host's memory" if self.host else ""
        return f"peak {written_bytes(self.peak)} = {parts}{beside}"


@with_value_errors
def predict_memory(
    model: nn.Module | PreTrainedConfig,
    *,
    batch: int,
    length: int | None = None,
    method: str | None = None,
    precision: str = "fp32",
    attention: str | None = None,
    head: str | None = None,
    weights: str | None = None,
    accumulating: bool = False,
    **settings: Any,
) -> PredictedMemory:
    """Predicts the memory of a training step with fused AdamW, from shapes alone: no weights, no GPU, seconds.

    Without `method` a model is predicted as it is: what requires gradient trains, in layers as `make_reversible`, peft
    or gradient checkpointing have left them. The model stays as it is.

    Args:
        model: a model of transformers with its head, or its configuration, of which a model is made.
        batch: rows in one forward pass, without padding.
        length: tokens a row; images have their own.
        method: prepares a plain model before it is predicted, as `make_reversible` would (`meft1`) or a run of it does
            (`lora`, `full`).
        precision: `fp32`, or autocast to `bf16` or `fp16`.
        attention: `materialised` (scores in memory) or `flash` (a GPU's fused kernel). Unless set, a model is taken
            with its own on its device, a configuration with `materialised`.
        head: of a configuration, what the model is to do: `classification`, `lm`, `span` or `image`. Unless set, a
            decoder is a language model, others do their family's first. A language model is transformers' own, which
            has the logits of all tokens in memory; meft-memory's is this project's, which has not.
        weights: of a configuration, the form of frozen weights: `fp32`, `bf16`, `fp16`, `nf4` or `int8`.
        accumulating: the step adds to the gradients of an earlier pass.
        **settings: of the method, as `adapter_dim=16`; without `method`, of a reversal of what peft has prepared, as
            `reversal="exact"`.

    Raises:
        ValueError: something does not fit; the message says what was expected.
    """
    kernel = None if attention is None else one_of(Kernel.__members__, "attention", attention)
    chosen = one_of(Precision.__members__, "precision", precision)
    if method is not None and (not isinstance(method, str) or method not in METHODS):
        known = ", ".join(METHODS)
        raise UserError(f"method={method}: no such method, {nearest(str(method), METHODS)}expected one of {known}.")
    made = _made(model, head, weights, method, chosen, kernel)
    if method is not None or settings:
        made = _prepared(made, method, settings)
    found = predicted_step(
        made, family_of(inner_model(made).config), batch, length, AUTOCAST[chosen.name], kernel, accumulating
    )
    return PredictedMemory(**{each.name: getattr(found, f"{each.name}_bytes") for each in fields(PredictedMemory)})


def _made(
    model: Any, head: str | None, weights: str | None, method: str | None, precision: Precision, kernel: Kernel | None
) -> nn.Module:
    """Returns the model that was given, or one of the configuration that was given."""
    if not isinstance(model, PreTrainedConfig):
        return _given(model, head=head, weights=weights)
    form = one_of(WeightForm.__members__, "weights", weights or "fp32")
    _check_weights(form, method, precision)
    return _of_config(model, head, form, precision, kernel or Kernel.materialised)


def _of_config(
    config: PreTrainedConfig, head: str | None, form: WeightForm, precision: Precision, attention: Kernel
) -> PreTrainedModel:
    """Returns a model of a configuration, on the meta device."""
    family = family_of(config)
    if head is None:
        wanted = Head.lm if Head.lm in family.heads else next(iter(family.heads))
    else:
        wanted = one_of({each.name: each for each in family.heads}, "head", head)
    auto = AutoModelForCausalLM if wanted is Head.lm else family.heads[wanted]
    own = copy.deepcopy(config)
    own.use_cache = False
    with torch.device("meta"), fitting_sizes("model", config.model_type):
        return blank_model(own, auto, form, precision, attention)


def _check_weights(form: WeightForm, method: str | None, precision: Precision) -> None:
    """Makes sure that a method can train beside weights of a form in a precision.

    Raises:
        UserError: it cannot.
    """
    kind = METHODS.get(method or "full", MethodSettings)
    hindered = weights_hindrance(form, kind(name=method or "full"), precision)
    if hindered is not None:
        raise UserError(hindered.replace("backbone.weights", "weights").replace("training.precision", "precision"))


def _given(model: nn.Module, **said: str | None) -> nn.Module:
    """Returns a model that was given.

    Raises:
        UserError: it is no model of transformers as it was loaded or prepared, or something is said of it that it says
            itself.
    """
    if not isinstance(inner_model(model), PreTrainedModel):
        raise UserError(f"model: expected a model of transformers or its configuration, not {type(model).__name__}.")
    if "forward" in {**vars(model), **vars(inner_model(model))}:
        raise UserError(
            "model: its forward pass has been replaced, as trainers and accelerators do, and a copy would run the "
            "model itself. Predict before it is given to them."
        )
    for key, value in said.items():
        if value is not None:
            raise UserError(f"{key}={value}: the model has its own. Leave it out, or give its configuration.")
    return model


def _prepared(model: nn.Module, method: str | None, settings: dict[str, Any]) -> nn.Module:
    """Returns a copy on the meta device that a method has prepared.

    Raises:
        UserError: the model is prepared already, or the method does not fit it.
    """
    if reversible_stacks(model):
        given = ", ".join([*([] if method is None else ["method"]), *settings])
        raise UserError(f"{given}: the model is reversible already, and predicted as it is. Leave it out.")
    with torch.device("meta"):
        with copying():
            copied: Any = on_meta(model)
        if method in METHODS and method not in MEFT and not isinstance(model, PeftModel):
            inner, family = backbone_of(copied)
            backbone = settings_of_backbone(inner)
            return prepare(inner, family, backbone, run_settings(method, backbone.norm.name, settings))
        return make_reversible(copied, method, **settings)
