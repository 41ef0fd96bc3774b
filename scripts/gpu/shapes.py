"""Models that are checked: on a GPU large enough for its own kernels, without one as small as they can be."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from steps.models import Shape, sizes

from meft_runner.config import Head

Row = dict[str, Any]  # of a table, by column


def on_gpu() -> bool:
    """Tells whether there is a GPU."""
    return torch.cuda.is_available()


def each(**choices: Iterable[Any]) -> list[dict[str, Any]]:
    """Returns every combination of arguments of a check."""
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def layers() -> int:
    """Returns how many layers the small models have."""
    return 12 if on_gpu() else 2


def encoder() -> Shape:
    """Returns a small encoder of RoBERTa's shape."""
    return _small("roberta", **_encoder_sizes())


def decoder(weights: str = "fp32") -> Shape:
    """Returns a small decoder of Llama's shape."""
    return replace(_small("llama3_1b", **_decoder_sizes()), weights=weights, head=Head.classification)


def families() -> list[Shape]:
    """Returns a small model of every family, under its usual head."""
    hidden, depth = _hidden(), layers()
    image = {"image_size": 32, "patch_size": 8, "hidden_size": hidden, "num_hidden_layers": depth}
    image |= {"num_attention_heads": 4, "intermediate_size": 2 * hidden}
    sides = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in
             {"layers": depth, "attention_heads": 4, "ffn_dim": 2 * hidden}.items()}  # fmt: skip
    opt = {"hidden_size": hidden, "num_hidden_layers": depth, "num_attention_heads": 4, "ffn_dim": 2 * hidden}
    return [
        *(_small(name, **_encoder_sizes()) for name in ("bert", "roberta", "deberta_v3_base")),
        _small("bart_base", d_model=hidden, vocab_size=1000, **sides),
        _small("opt_125m", word_embed_proj_dim=hidden, vocab_size=1000, **opt),
        *(_small(name, **_decoder_sizes()) for name in ("llama3_1b", "mistral_7b", "qwen3_0b6")),
        replace(_small("llama3_1b", **_decoder_sizes()), model_type="qwen2"),
        replace(_small("vit", **image), length=None),
    ]


def usual() -> list[Shape]:
    """Returns the paper's models as their steps are timed, and a decoder of Llama's shape."""
    if not on_gpu():
        return [encoder(), decoder()]
    return [Shape("roberta", 32, 128), Shape("opt", 8, 512), Shape("llama3_1b", 4, 2048, head=Head.lm)]


def long_rows() -> Shape:
    """Returns one row of Llama-3.1-8B with NF4 weights; its length is what is looked for."""
    if not on_gpu():
        return replace(decoder("nf4"), batch_size=1)
    return Shape("llama3_8b", 1, 4096, weights="nf4", head=Head.lm)  # a row of many pieces


def _small(backbone: str, **own: int) -> Shape:
    rows, length = (8, 128) if on_gpu() else (2, 16)
    return Shape(backbone, rows, length, sizes(**own))


def _hidden() -> int:
    return 256 if on_gpu() else 64


def _encoder_sizes() -> dict[str, int]:
    own = {"hidden_size": _hidden(), "num_hidden_layers": layers(), "num_attention_heads": 4}
    return own | {"intermediate_size": 2 * _hidden(), "vocab_size": 1000}


def _decoder_sizes() -> dict[str, int]:
    return _encoder_sizes() | {"num_key_value_heads": 2, "head_dim": _hidden() // 4}
