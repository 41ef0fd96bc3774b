"""Full fine-tuning."""

from typing import Any

from transformers import PreTrainedModel

from meft_runner.backbones import Family
from meft_runner.config import BackboneSettings, FullSettings
from meft_runner.config.methods import OFFLOAD

_OPTIONS: dict[bool | str, Any] = {True: {}, OFFLOAD: {"offload": True}, "every_4": {"every_n_layers": 4}}


def prepare_full(
    model: PreTrainedModel, family: Family, backbone: BackboneSettings, method: FullSettings
) -> PreTrainedModel:
    """Returns the model itself, every parameter trainable."""
    set_checkpointing(model, method.checkpointing)
    return model


def set_checkpointing(model: PreTrainedModel, kind: bool | str) -> None:
    """Makes a model recompute its layers' activations in backward.

    Args:
        model: is changed.
        kind: one of CHECKPOINTING; `offload` needs a GPU, from whose memory the inputs of layers go to the host's.
    """
    if kind is not False:
        model.activation_checkpointing_enable({"use_reentrant": False}, **_OPTIONS[kind])
