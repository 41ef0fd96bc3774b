"""Deeper models of pre-trained layers: the layers of a model, stacked on each other again."""

from copy import deepcopy
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from meft_runner.backbones.family import Family
from meft_runner.backbones.weights import own_scales
from meft_runner.config import DEPTH_NAMES


def repeat_layers(model: PreTrainedModel, family: Family, times: int) -> None:
    """Stacks every list of layers `times` times on itself, in place: 0, 1, ..., 0, 1, ... with weights of their own.

    Args:
        model: as it was loaded.
        family: its architecture.
        times: how often each layer is there afterwards.
    """
    for view in family.views:
        layers = view.layers(model)
        # All copies go on reading the one configuration of the model.
        copies = [deepcopy(layers, {id(model.config): model.config}) for _ in range(times - 1)]
        view.replace_layers(model, _numbered([layer for part in (layers, *copies) for layer in part]))
    multiply_depth(model.config, times)


def multiply_depth(config: PreTrainedConfig, times: int) -> None:
    """Makes a configuration that of a model with `times` as many layers, in place."""
    depths = {name: getattr(config, name) for name in DEPTH_NAMES if hasattr(config, name)}
    for name, depth in depths.items():  # read before any is set: BART has two names for one of them
        _set_depth(config, name, times * depth)


def set_depth(config: PreTrainedConfig, depth: int) -> None:
    """Makes a configuration that of a model with `depth` layers in each stack, in place."""
    for name in DEPTH_NAMES:
        if hasattr(config, name):
            _set_depth(config, name, depth)


def _set_depth(config: PreTrainedConfig, name: str, depth: int) -> None:
    setattr(config, name, depth)
    kinds = getattr(config, "layer_types", None)  # how each layer attends; those of more layers begin again
    if kinds is not None:
        config.layer_types = [kinds[place % len(kinds)] for place in range(depth)]


def _numbered(layers: list[Any]) -> list[Any]:
    """Numbers layers in their order, where they know it: by their place in the cache of keys and values.

    Copies of quantised layers get scales of their own.
    """
    for index, layer in enumerate(layers):
        for module in layer.modules():
            own_scales(module)
            if hasattr(module, "layer_idx"):
                module.layer_idx = index
    return layers
