"""The sizes in conf/backbone make the models that are published."""

import pytest
import torch
from transformers import AutoConfig

from meft_runner.backbones import FAMILIES
from meft_runner.config import Head
from meft_runner.config.directory import read_group

BACKBONES = read_group("backbone")
# Parameters as the models' pages on the hub count them, tied embeddings once.
PUBLISHED = {
    "llama3_8b": 8_030_261_248, "llama3_1b": 1_235_814_400, "mistral_7b": 7_248_023_552, "qwen3_8b": 8_190_735_360,
    "qwen3_0b6": 596_049_920, "smollm2_135m": 134_515_008, "smollm2_360m": 361_821_120,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name):
    sizes = BACKBONES[name]
    model_type = sizes["model_types"][0]
    config = AutoConfig.for_model(model_type, **sizes["config"])
    with torch.device("meta"):
        model = FAMILIES[model_type].heads[Head.lm].from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]
    assert set(sizes["model_types"]) == {"llama", "mistral", "qwen2", "qwen3"}  # a folder of any of them
