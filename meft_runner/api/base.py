"""The base model of an adapter: what of it is noted, and how another one differs."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

# Of a configuration, by the names that transformers has for them; a model has some of them.
_SIZES = (
    "model_type", "hidden_size", "num_hidden_layers", "encoder_layers", "decoder_layers", "num_attention_heads",
    "num_key_value_heads", "intermediate_size", "encoder_ffn_dim", "ffn_dim", "vocab_size", "image_size", "patch_size",
)  # fmt: skip
_SAMPLED = 4096  # elements of a matrix of embeddings


def description_of(model: PreTrainedModel) -> dict[str, Any]:
    """Returns what tells a base model from others: its class, its sizes, and a digest of some of its embeddings.

    Args:
        model: a plain one, or one inside a peft model.
    """
    config = model.config
    sizes = {name: getattr(config, name) for name in _SIZES if isinstance(getattr(config, name, None), int | str)}
    return {"class": type(model).__name__, "sizes": sizes, "embeddings": _digest(model)}


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
    return None


def _digest(model: PreTrainedModel) -> str | None:
    """Returns a digest of embeddings as bfloat16 has them, the same in float32 and bfloat16.

    None for those that have no values, and for float16, which rounds differently.
    """
    embeddings: Any = model.get_input_embeddings()
    embeddings = getattr(embeddings, "base_layer", getattr(embeddings, "original_module", embeddings))  # under peft
    found = hashlib.sha256()
    for weight in embeddings.parameters():
        if weight.is_meta or weight.dtype not in (torch.float32, torch.bfloat16):
            return None
        flat = weight.detach().flatten()
        some = flat[:: max(1, len(flat) // _SAMPLED)].to(torch.bfloat16)
        found.update(some.cpu().contiguous().view(torch.int16).numpy().tobytes())
    return found.hexdigest()[:16]
