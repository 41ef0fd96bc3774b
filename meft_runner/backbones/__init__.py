"""Pre-trained models: one file a family, and how weights are found and loaded."""

from meft_runner.backbones.bert import BERT, ROBERTA
from meft_runner.backbones.family import Family, StackLayer, UnsupportedInputError

FAMILIES: dict[str, Family] = {family.model_type: family for family in (BERT, ROBERTA)}

__all__ = ["FAMILIES", "Family", "StackLayer", "UnsupportedInputError"]
