"""Full fine-tuning."""

from transformers import PreTrainedModel

from meft_runner.backbones import Family
from meft_runner.config import BackboneSettings, FullSettings


def prepare_full(
    model: PreTrainedModel, family: Family, backbone: BackboneSettings, method: FullSettings
) -> PreTrainedModel:
    """Returns the model itself, every parameter trainable."""
    set_checkpointing(model, method.checkpointing)
    return model


def set_checkpointing(model: PreTrainedModel, on: bool) -> None:
    """Makes a model recompute each layer's activations in backward, where that is on."""
    if on:
        model.activation_checkpointing_enable({"use_reentrant": False})
