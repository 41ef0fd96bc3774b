"""The methods that MEFT is compared with: full fine-tuning, and LoRA and (IA)^3 through peft."""

from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from meft_runner.backbones import Family, task_head
from meft_runner.settings import FullSettings, Ia3Settings, LoraSettings


def prepare_full(model: PreTrainedModel, family: Family, method: FullSettings) -> PreTrainedModel:
    """Returns the model itself, every parameter trainable."""
    _set_checkpointing(model, method.checkpointing)
    return model


def prepare_lora(model: PreTrainedModel, family: Family, method: LoraSettings) -> PeftModel:
    """Freezes the model and adds low-rank updates to its query and value projections."""
    _set_checkpointing(model, method.checkpointing)
    config = LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=family.lora_targets,
        modules_to_save=task_head(model),
    )
    return get_peft_model(model, config)


def prepare_ia3(model: PreTrainedModel, family: Family, method: Ia3Settings) -> PeftModel:
    """Freezes the model and adds rescaling vectors to keys, values and inner MLP activations."""
    _set_checkpointing(model, method.checkpointing)
    config = IA3Config(
        target_modules=family.ia3_targets,
        feedforward_modules=family.ia3_feedforward,
        modules_to_save=task_head(model),
    )
    return get_peft_model(model, config)


def _set_checkpointing(model: PreTrainedModel, on: bool) -> None:
    if on:
        model.activation_checkpointing_enable({"use_reentrant": False})
