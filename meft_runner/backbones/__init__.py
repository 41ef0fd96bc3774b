"""Pre-trained models: one file a family, and how weights are found and loaded."""

from meft_runner.backbones.bart import BART
from meft_runner.backbones.bert import BERT, ROBERTA
from meft_runner.backbones.family import Family, LayerView, StackLayer, UnsupportedInputError, task_head
from meft_runner.backbones.opt import OPT
from meft_runner.backbones.vit import DEIT, VIT

FAMILIES: dict[str, Family] = {family.model_type: family for family in (BERT, ROBERTA, BART, OPT, VIT, DEIT)}

__all__ = ["FAMILIES", "Family", "LayerView", "StackLayer", "UnsupportedInputError", "task_head"]
