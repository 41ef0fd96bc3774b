"""What the kernels of another machine keep, for predicting memory: they are not those of this machine.

`materialised` is transformers' own attention in matrix products ("eager"), with the scores in memory, and
everything else as a CPU does it. `flash` stands for a GPU: a fused attention kernel that keeps queries, keys,
values, the output and one number a query; dropout masks of one byte an element, where a CPU's have the size of
what they mask; LayerNorm in float32 under autocast, where a CPU's stays in half precision; a loss head that takes
its weight as it is, where a CPU casts it to float32; and matrices in int8 that are multiplied as they are, where a CPU
makes them floating-point ones.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, masking_utils

from meft_runner.memory.quantised import int8_product
from meft_runner.memory.shapes import ShapeTensor
from meft_runner.reversible import arithmetic

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


def take_fused_attention(model: nn.Module) -> None:
    """Gives a model, in place, the attention of shapes alone that stands for a GPU's fused one."""
    register()
    take_attention(model, FUSED)


def take_attention(model: nn.Module, implementation: str) -> None:
    """Gives a model, in place, one of the implementations of attention that transformers knows."""
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if config is not None:
            config._attn_implementation = implementation


def _layer_norm(input: Tensor, *arguments: Any, **options: Any) -> Tensor:
    if not torch.is_autocast_enabled("cpu"):
        return _CPU_LAYER_NORM(input, *arguments, **options)
    with torch.autocast("cpu", enabled=False):
        return _CPU_LAYER_NORM(input.float(), *arguments, **options)


class _ChunkedLoss(torch.autograd.Function):
    """Allocates and keeps what torch's chunked cross entropy does on a GPU, and computes nothing.

    A CPU casts the whole weight to float32 besides where it is in half precision.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, chunk: int, reduction: str) -> Tensor:
        """Returns the loss of (N, H) states; their gradients are made here too, but with `none` in backward."""
        ctx.chunk, ctx.reduction = chunk, reduction
        if reduction == "none":
            _logits(states, weight, chunk)
            ctx.save_for_backward(states, weight)
            return states.new_empty(len(states))
        ctx.gradients = _gradients(states, weight, chunk, ctx.needs_input_grad)
        return states.new_empty(())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Returns gradients of the inputs' shapes."""
        if ctx.reduction == "none":
            states, weight = ctx.saved_tensors
            ctx.gradients = _gradients(states, weight, ctx.chunk, ctx.needs_input_grad)
        made, ctx.gradients = ctx.gradients, None
        return *made, None, None


def _logits(states: Tensor, weight: Tensor, chunk: int) -> Tensor:
    dtype = states.dtype if states.dtype == torch.float16 else torch.float32
    return states.new_empty(min(chunk, len(states)), len(weight), dtype=dtype)


def _gradients(
    states: Tensor, weight: Tensor, chunk: int, needed: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    logits = _logits(states, weight, chunk)
    made = [torch.empty_like(each) if wanted else None for each, wanted in zip((states, weight), needed, strict=False)]
    logits.to(states.dtype)
    return made[0], made[1]


def _linear_cross_entropy(
    input: Tensor, linear_weight: Tensor, target: Tensor, *, reduction: str, options: Any, **others: Any
) -> Tensor:
    return _ChunkedLoss.apply(input, linear_weight, options.batch_chunk_size, reduction)


def _all(mask: Tensor) -> Tensor | bool:
    """Returns whether all of a mask is true, which it is where it has no values: a model has made it of ones."""
    return isinstance(mask, ShapeTensor) or mask.all()


def _floor_divide(values: Tensor, count: int) -> Tensor:
    return torch.div(values, count, rounding_mode="floor")


_GPU_OPERATIONS = {"dropout": _dropout, "layer_norm": _layer_norm, "linear_cross_entropy": _linear_cross_entropy}


@contextmanager
def machine(has_gpu: bool) -> Iterator[None]:
    """Makes operations inside need what those of a machine with or without a GPU do, on tensors of shapes alone."""
    with _whole_rows(), _gpu_operations() if has_gpu else nullcontext():
        yield


@contextmanager
def _gpu_operations() -> Iterator[None]:
    """Makes dropout, LayerNorm, the loss head and products in int8 need what a GPU's do.

    The functions themselves are replaced: a mode of torch is not in force in backward, where layers are computed again.
    """
    with ExitStack() as replaced:
        replaced.enter_context(_replaced(torch.nn.functional, _GPU_OPERATIONS))
        if find_spec("bitsandbytes") is not None:
            replaced.enter_context(_replaced(import_module("bitsandbytes"), {"matmul": int8_product}))
        yield


@contextmanager
def _whole_rows() -> Iterator[None]:
    """Tells transformers that no row holds several texts, which it would look for in positions that have no values.

    Integers of streams are divided in one operation, as a GPU does it: a CPU takes pieces of a size of their own, of
    which a long row has too many to follow.
    """
    with (
        _replaced(masking_utils, {"find_packed_sequence_indices": lambda position_ids: None, "fast_all": _all}),
        _replaced(arithmetic, {"floor_divide": _floor_divide}),
    ):
        yield


@contextmanager
def _replaced(module: Any, functions: dict[str, Any]) -> Iterator[None]:
    own = {name: vars(module)[name] for name in functions}
    vars(module).update(functions)
    try:
        yield
    finally:
        vars(module).update(own)
