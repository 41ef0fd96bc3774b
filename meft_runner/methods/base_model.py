"""The base model of an adapter: what of it is noted, and how another one differs."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from meft_runner.backbones import FAMILIES

# Of a configuration, by the names that transformers has for them; a model has some of them.
_SIZES = (
    "model_type", "hidden_size", "num_hidden_layers", "encoder_layers", "decoder_layers", "num_attention_heads",
    "num_key_value_heads", "intermediate_size", "encoder_ffn_dim", "ffn_dim", "vocab_size", "image_size", "patch_size",
)  # fmt: skip
_SAMPLED = 4096  # elements of a matrix of embeddings
_OF_LAYERS = 256  # elements of a matrix in a layer


def description_of(model: PreTrainedModel) -> dict[str, Any]:
    """Returns what tells a base model from others: its class, its sizes, and digests of some of its numbers.

    Args:
        model: a plain one, or one inside a peft model.
    """
    config = model.config
    sizes = {name: getattr(config, name) for name in _SIZES if isinstance(getattr(config, name, None), int | str)}
    embeddings: Any = model.get_input_embeddings()
    embeddings = getattr(embeddings, "base_layer", getattr(embeddings, "original_module", embeddings))  # under peft
    return {
        "class": type(model).__name__, "sizes": sizes, "embeddings": _digest(embeddings.parameters(), _SAMPLED),
        "layers": _of_layers(model),
    }  # fmt: skip


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Returns how a base model differs from the one that was described, None where it does not.

    Args:
        then: the base model of an adapter.
        now: the one that is there.
    """
    sizes, own = then.get("sizes", {}), now["sizes"]
    differing = [name for name in sizes if sizes[name] != own.get(name)]
    if differing:
        return ", ".join(f"{name} is {sizes[name]} there and {own.get(name)} here" for name in differing[:3])
    if then.get("class", now["class"]) != now["class"]:
        return f"its class is {then['class']} there and {now['class']} here"
    if None not in (then.get("embeddings"), now["embeddings"]) and then["embeddings"] != now["embeddings"]:
        return "its sizes are the same, but its embeddings hold other numbers"
    layers, own_layers = then.get("layers", {}), now["layers"]
    other = [name for name in layers if layers[name] != own_layers.get(name, layers[name])]
    return f"its sizes are the same, but {other[0]} of its layers holds other numbers" if other else None


def _of_layers(model: PreTrainedModel) -> dict[str, str]:
    """Returns a digest of each parameter by its name in a layer, over all layers, but for those that peft changes."""
    family = FAMILIES.get(model.config.model_type)
    layers = [layer for view in family.views for layer in view.layers(model)] if family else []
    changed = tuple({name for layer in layers for name in _changed(layer)})
    found: dict[str, list[Tensor]] = {}
    for layer in layers:
        for name, parameter in layer.named_parameters():
            if not name.startswith(changed):
                found.setdefault(name, []).append(parameter)
    digests = {name: _digest(each, _OF_LAYERS) for name, each in found.items()}
    return {name: each for name, each in digests.items() if each is not None}


def _changed(layer: nn.Module) -> Iterator[str]:
    """Yields how the names of parameters begin that peft has wrapped in a layer, or lets train beside its own."""
    wrappers = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    wrapped = [f"{name}." for name, module in layer.named_modules() if isinstance(module, wrappers)]
    yield from wrapped
    if wrapped:
        yield from (name for name, parameter in layer.named_parameters() if parameter.requires_grad)


def _digest(weights: Iterable[Tensor], sampled: int) -> str | None:
    """Returns a digest of weights as bfloat16 has them, the same in float32 and bfloat16.

    None for those that have no values here, for float16, which rounds differently, and for integers.

    Args:
        weights: in order.
        sampled: about how many elements of each are looked at.
    """
    found = hashlib.sha256()
    for weight in weights:
        if weight.is_meta or not weight.numel() or weight.dtype not in (torch.float32, torch.bfloat16):
            return None
        flat = weight.detach().flatten()
        some = flat[:: max(1, len(flat) // sampled)].to(torch.bfloat16)
        found.update(some.cpu().contiguous().view(torch.int16).numpy().tobytes())
    return found.hexdigest()[:16]
