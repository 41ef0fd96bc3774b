"""What the kernels of another machine keep, for predicting memory: they are not those of this machine.

`materialised` is transformers' own attention in matrix products ("eager"), with the scores in memory, and
everything else as a CPU does it. `flash` stands for a GPU: a fused attention kernel that keeps queries, keys,
values, the output and one number a query; dropout masks of one byte an element, where a CPU's have the size of
what they mask; and LayerNorm in float32 under autocast, where a CPU's stays in half precision.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

_CPU_LAYER_NORM = torch.nn.functional.layer_norm
FUSED = "meft_fused"  # a name with "flash" in it would make transformers look for that library


class _FusedAttention(torch.autograd.Function):
    """Allocates and keeps what a fused attention kernel does, and computes nothing."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Returns an output of the queries' shape, (B, heads, S, head_dim), laid out as (B, S, heads, head_dim)."""
        batch, heads, length, size = query.shape
        output = query.new_empty(batch, length, heads, size).transpose(1, 2)
        normalisers = query.new_empty(batch, heads, length, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, normalisers)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns gradients of the inputs' shapes."""
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    return _FusedAttention.apply(query, key, value).transpose(1, 2), None


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(input, p, True)[0] if training and p > 0 else input


def register() -> None:
    """Makes the fused kernel known to transformers; it needs no mask in memory."""
    AttentionInterface.register(FUSED, _attention)
    AttentionMaskInterface.register(FUSED, lambda *args, **kwargs: None)


def _layer_norm(input: Tensor, *arguments: Any, **options: Any) -> Tensor:
    if not torch.is_autocast_enabled("cpu"):
        return _CPU_LAYER_NORM(input, *arguments, **options)
    with torch.autocast("cpu", enabled=False):
        return _CPU_LAYER_NORM(input.float(), *arguments, **options)


_GPU_OPERATIONS = {"dropout": _dropout, "layer_norm": _layer_norm}


@contextmanager
def gpu_operations() -> Iterator[None]:
    """Makes dropout and LayerNorm keep what a GPU's do.

    The functions themselves are replaced: a mode of torch is not in force in backward, where layers are computed again.
    """
    functions = vars(torch.nn.functional)
    own = {name: functions[name] for name in _GPU_OPERATIONS}
    functions.update(_GPU_OPERATIONS)
    try:
        yield
    finally:
        functions.update(own)
