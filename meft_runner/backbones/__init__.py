"""Pre-trained models: one file a family, and how weights are found and loaded."""

from transformers import PreTrainedConfig

from meft_runner.backbones.families import found_families
from meft_runner.backbones.family import Family, LayerView, UnsupportedInputError, inner_model, task_head
from meft_runner.backbones.stack_layer import StackLayer

FAMILIES = found_families()


def positions(config: PreTrainedConfig) -> int:
    """Returns how many tokens a model reads in a row; of images, how many it makes of each."""
    return FAMILIES[config.model_type].positions(config)


__all__ = [
    "FAMILIES", "Family", "LayerView", "StackLayer", "UnsupportedInputError", "inner_model", "positions", "task_head",
]  # fmt: skip
