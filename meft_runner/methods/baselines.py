"""The methods that MEFT is compared with: full fine-tuning, and LoRA and (IA)^3 through peft."""

from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from meft_runner.backbones import Family, task_head
from meft_runner.config import BackboneSettings, FullSettings, Ia3Settings, LoraSettings


def prepare_full(
    model: PreTrainedModel, family: Family, backbone: BackboneSettings, method: FullSettings
) -> PreTrainedModel:
    """Returns the model itself, every parameter trainable."""
    _set_checkpointing(model, method.checkpointing)
    return model


def prepare_lora(model: PreTrainedModel, family: Family, backbone: BackboneSettings, method: LoraSettings) -> PeftModel:
    """Freezes the model and adds low-rank updates to its query and value projections."""
    _set_checkpointing(model, method.checkpointing)
    config = LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=family.lora_targets,
        modules_to_save=task_head(model),
    )
    prepared = get_peft_model(model, config)
    _start_away(prepared, ".lora_B.", 0.0, method)
    return prepared


def prepare_ia3(model: PreTrainedModel, family: Family, backbone: BackboneSettings, method: Ia3Settings) -> PeftModel:
    """Freezes the model and adds rescaling vectors to keys, values and inner MLP activations."""
    _set_checkpointing(model, method.checkpointing)
    config = IA3Config(
        target_modules=family.ia3_targets,
        feedforward_modules=family.ia3_feedforward,
        modules_to_save=task_head(model),
    )
    prepared = get_peft_model(model, config)
    _start_away(prepared, ".ia3_l.", 1.0, method)
    return prepared


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


def _set_checkpointing(model: PreTrainedModel, on: bool) -> None:
    if on:
        model.activation_checkpointing_enable({"use_reentrant": False})
