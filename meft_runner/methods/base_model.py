"""The base model of an adapter: what of it is noted, and how another one differs."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

# Of a configuration, by the names that transformers has for them; a model has some of them.
_SIZES = (
    "model_type", "hidden_size", "num_hidden_layers", "encoder_layers", "decoder_layers", "num_attention_heads",
    "num_key_value_heads", "intermediate_size", "encoder_ffn_dim", "ffn_dim", "vocab_size", "image_size", "patch_size",
    "hidden_act", "attention_bias", "mlp_bias",
)  # fmt: skip
_NUMBERS = 32  # that are noted of each parameter, over all layers
_LARGEST = 1e300  # integers of any size may stand in a file
_PRIME = 7919  # how far apart positions begin in one layer and the next
# How far numbers may be apart, relative to their size, where they are as this type holds them. A base may have been
# loaded, or adapters merged into it, in another type.
_ROUNDED = ((torch.bfloat16, 2**-7), (torch.float16, 2**-10))
WRAPPERS: Any = (BaseTunerLayer, AuxiliaryTrainingWrapper)
_CHANGED = torch.empty(0)  # in the place of a parameter that peft has changed in one of the layers
_OWN_START = (True, False, None, "gaussian", "eva")  # how peft starts adapters where the base stays as it is


def description_of(model: PreTrainedModel) -> dict[str, Any]:
    """Returns what tells a base model from others: its class, its sizes, and some numbers of each of its parameters.

    Heads are left out, which are trained, and so is what peft has changed or lets train.

    Args:
        model: a plain one, or one inside a peft model.
    """
    config = model.config
    sizes = {name: getattr(config, name) for name in _SIZES if isinstance(getattr(config, name, None), int | str)}
    rope = getattr(config, "rope_parameters", None) or {}
    sizes |= {name: value for name, value in rope.items() if name == "rope_theta"}
    classes = (kind.__name__ for kind in type(model).__mro__ if kind.__module__.startswith("transformers."))
    return {"class": next(classes), "sizes": sizes, "numbers": _numbers(model)}


def is_description(found: Any) -> bool:
    """Tells whether something from a file is a description of a base model; an earlier version's has no numbers."""
    return (
        isinstance(found, dict)
        and isinstance(found.get("class", ""), str)
        and isinstance(found.get("sizes"), dict)
        and isinstance(numbers := found.get("numbers", {}), dict)
        and all(isinstance(each, list) and all(map(_is_number, each)) for each in numbers.values())
    )


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not abs(x) > _LARGEST


def difference(then: Mapping[str, Any], now: Mapping[str, Any], trained: Collection[str]) -> str | None:
    """Returns how a base model differs from the one that was described, None where it does not.

    Args:
        then: the base model of an adapter.
        now: the one that is there.
        trained: names of the adapter's own weights, which take the place of the base's.
    """
    sizes, own = then.get("sizes", {}), now["sizes"]
    differing = [name for name in own if name in sizes and sizes[name] != own[name]]
    if differing:
        return ", ".join(f"{name} is {sizes[name]} there and {own[name]} here" for name in differing[:3])
    if then.get("class", now["class"]) != now["class"]:
        return f"its class is {then['class']} there and {now['class']} here"
    replaced = {_general(name.removeprefix("base_model.model.")) for name in trained}
    for name, numbers in then.get("numbers", {}).items():
        if name in now["numbers"] and name not in replaced and not _same(numbers, now["numbers"][name]):
            return f"its sizes are the same, but {name} holds other numbers"
    return None


def _numbers(model: PreTrainedModel) -> dict[str, list[float]]:
    """Returns some numbers of each parameter by its name, that of a layer over all layers."""
    found: dict[str, list[Tensor]] = {}
    for name, parameter in _of_the_base(model):
        found.setdefault(_general(name), []).append(parameter)
    return {name: _some(each) for name, each in found.items() if all(map(_has_numbers, each))}


def _of_the_base(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yields the parameters of a plain model, but for its heads; one without numbers for each that peft has changed."""
    configs = list(getattr(model, "peft_config", {}).values())
    starts = {getattr(each, "init_lora_weights", None) for each in configs}
    rewritten = not starts <= set(_OWN_START) or any(getattr(each, "kasa_config", None) for each in configs)
    changed: set[int] = set()
    under_peft = False
    for module in model.modules():
        if isinstance(module, WRAPPERS):
            under_peft = True
            changed |= {id(parameter) for parameter in _changed(module, rewritten)}
    body, words = model.base_model, model.get_output_embeddings()
    inside = {id(parameter) for part in (body, words) if part is not None for parameter in part.parameters()}
    for name, parameter in model.named_parameters():
        trains = under_peft and parameter.requires_grad
        drawn_anew = body is model and name.startswith("pooler.")  # where a checkpoint has none, and none is read
        if id(parameter) in inside and not drawn_anew:
            kept = not trains and id(parameter) not in changed
            yield name.replace(".base_layer.", ".").replace(".original_module.", "."), parameter if kept else _CHANGED


def _changed(module: nn.Module, rewritten: bool) -> Iterator[Tensor]:
    """Yields the parameters that peft has put into a module, or computed anew."""
    kept = "original_module" if isinstance(module, AuxiliaryTrainingWrapper) else "base_layer"
    anew = rewritten or getattr(module, "merged", False)
    for name, child in module.named_children():
        if anew or name != kept:
            yield from child.parameters()
    yield from module.parameters(recurse=False)


def _general(name: str) -> str:
    """Returns a parameter's name without the numbers of layers."""
    return re.sub(r"\.\d+\.", ".*.", name)


def _has_numbers(weight: Tensor) -> bool:
    """Tells whether a parameter is here, and not packed by bitsandbytes."""
    packed = getattr(weight, "quant_state", None) is not None
    return weight.is_floating_point() and not packed and not weight.is_meta and weight.numel() > 0


def _some(weights: Sequence[Tensor]) -> list[float]:
    """Returns numbers of a parameter of all layers, from other places in each; of rows that a longer one has too."""
    count = max(1, _NUMBERS // len(weights))
    found = []
    for i, weight in enumerate(weights):
        flat = weight.detach().reshape(-1)[: max(1, weight.numel() * 3 // 4)]  # a vocabulary's new rows are its last
        places = [(i * _PRIME + j * (flat.numel() // count | 1)) % flat.numel() for j in range(count)]
        found += flat[places].double().tolist()
    return found


def _rounding(numbers: Tensor) -> float:
    """Returns how far numbers may be from what was rounded to them."""
    return next((step for dtype, step in _ROUNDED if torch.equal(numbers, numbers.to(dtype).double())), 2**-16)


def _same(then: Sequence[float], now: Sequence[float]) -> bool:
    """Tells whether numbers are the same, but for how they were rounded."""
    a, b = (torch.tensor(each, dtype=torch.float64) for each in (then, now))
    apart = max(map(_rounding, (a, b)))
    size = float(b.square().mean().sqrt())  # a small number may be what is left of large ones
    return a.shape == b.shape and torch.allclose(a, b, rtol=apart, atol=1e-7 + apart * size / 2)
