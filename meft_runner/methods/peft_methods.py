"""The methods that peft brings: LoRA, DoRA, (IA)^3 and VeRA."""

from collections.abc import Callable
from typing import Any

from peft import IA3Config, LoraConfig, PeftConfig, PeftModel, VeraConfig, get_peft_model
from peft.tuners.ia3 import IA3Layer
from torch import nn
from transformers import PreTrainedModel

from meft_runner.backbones import Family, task_head
from meft_runner.backbones.weights import is_quantised
from meft_runner.config import (
    BackboneSettings,
    Ia3Settings,
    LoraSettings,
    PeftReversal,
    PeftSettings,
    VeraSettings,
)
from meft_runner.methods.delay import make_layers_reversible
from meft_runner.methods.full import set_checkpointing

FIRST_FACTORS = ("lora_A", "vera_lambda_d")  # in parameters' names, where the second factor starts at zero


def prepare_peft(model: PreTrainedModel, family: Family, backbone: BackboneSettings, method: PeftSettings) -> PeftModel:
    """Freezes the model and adds what a method trains inside its layers, which become reversible where that is asked.

    Raises:
        UserError: the model cannot be made reversible.
    """
    set_checkpointing(model, method.checkpointing)
    config = _CONFIGS[type(method)](family, method)
    config.modules_to_save = task_head(model)
    prepared = get_peft_model(model, config)
    assert isinstance(prepared, PeftModel)
    if isinstance(method, LoraSettings):
        _start_away(prepared, ".lora_B.", 0.0, method)
    elif isinstance(method, Ia3Settings):
        _start_away(prepared, ".ia3_l.", 1.0, method)
        if is_quantised(backbone.weights):
            keep_input_dtype(prepared)
    if method.reversal is not PeftReversal.off:
        make_layers_reversible(prepared, model, family, backbone, method)
    return prepared


def keep_input_dtype(model: PeftModel) -> None:
    """Makes (IA)^3 return what it was given, float32 or half precision; beside quantised weights peft's does not."""
    for module in model.modules():
        if isinstance(module, IA3Layer):
            module.register_forward_hook(lambda module, args, output: output.to(args[0].dtype))


def _lora(family: Family, method: LoraSettings) -> PeftConfig:
    return LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        use_dora=method.decomposed,
        target_modules=family.lora_targets,
    )


def _ia3(family: Family, method: Ia3Settings) -> PeftConfig:
    return IA3Config(target_modules=family.ia3_targets, feedforward_modules=family.ia3_feedforward)


def _vera(family: Family, method: VeraSettings) -> PeftConfig:
    return VeraConfig(r=method.rank, target_modules=family.lora_targets)


_CONFIGS: dict[type[PeftSettings], Callable[[Family, Any], Any]] = {
    LoraSettings: _lora,
    Ia3Settings: _ia3,
    VeraSettings: _vera,
}


def _start_away(model: PeftModel, part: str, usual: float, method: LoraSettings | Ia3Settings) -> None:
    """Starts parameters away from the pre-trained model, at constant + noise * N(0, 1), where the settings say so.

    Args:
        model: as peft made it.
        part: of the names of the parameters.
        usual: the constant that leaves the model what it is, where the settings give none.
        method: its settings; without a constant and without noise nothing is changed and nothing is drawn.
    """
    if method.init_constant is None and method.init_noise is None:
        return
    constant = usual if method.init_constant is None else method.init_constant
    for name, parameter in model.named_parameters():
        if part in name:
            nn.init.normal_(parameter, constant, method.init_noise or 0.0)
