"""What layers of transformers have in common: projections, the kernel that the model is set to, and adapters."""

from importlib import import_module
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from meft_runner.backbones.kept_keys import with_kept


def project(attention: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns queries, keys and values of x, (B, S, heads * D) each, in the order in which layers draw from dropout."""
    return attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)


def adapted(output: Tensor, adapter: nn.Module | None, read: Tensor) -> Tensor:
    """Returns output + adapter(read), (B, S, H); the output itself where there is no adapter."""
    return output if adapter is None else output + adapter(read)


def attend(
    attention: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, **options: Any
) -> Tensor:
    """Runs the attention kernel that a model is set to, as its own attention module calls it.

    Args:
        attention: that module; `head_dim` and `scaling` are its own unless `options` has them.
        query: (B, S, heads * D).
        key: (B, T, key heads * D); while keys are kept, those of the tokens before stand in front of it.
        value: likewise.
        mask: as the kernel takes it.
        dropout: probability, in training.
        **options: of the kernel besides.

    Returns:
        The values' weighted means, (B, S, heads * D).
    """
    size = options.pop("head_dim", None) or attention.head_dim
    query, key, value = (each.unflatten(-1, (-1, size)).transpose(1, 2) for each in (query, key, value))
    key, value = with_kept(attention, key, value)
    own = getattr(attention, "original_module", attention)  # inside peft's wrapper around what it trains whole
    eager = import_module(type(own).__module__).eager_attention_forward  # each file of transformers has its own
    kernel = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager)
    window = getattr(attention, "sliding_window", getattr(attention.config, "sliding_window", None))
    options = {"scaling": attention.scaling, "dropout": dropout if attention.training else 0.0} | options
    context, _ = kernel(attention, query, key, value, mask, sliding_window=window, **options)
    return context.flatten(2).contiguous()
