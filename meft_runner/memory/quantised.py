"""What bitsandbytes keeps and allocates where neither a model's parameters nor an operation's results show it."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from meft_runner.memory.blocks import rounded_bytes

_SCALES = ("absmax", "code", "offset")  # of a matrix in NF4, and of its scales, which are quantised too
_BYTES = ("CB", "SCB")  # of a matrix in int8, and its scales


def tensors_beside(model: nn.Module) -> dict[tuple[int, str], tuple[Any, Tensor]]:
    """Returns the tensors of quantised weights that are no parameters: scales, and the int8 bytes themselves.

    Returns:
        The object that has a tensor as an attribute, and the tensor, by the object's id and the attribute's name.
    """
    return {
        (id(owner), name): (owner, tensor)
        for module in model.modules()
        for owner, names in _owners(module)
        for name in names
        if isinstance(tensor := vars(owner).get(name), Tensor)
    }


def _owners(module: nn.Module) -> Iterator[tuple[Any, tuple[str, ...]]]:
    weight, state = vars(module)["_parameters"].get("weight"), vars(module).get("state")
    scales = getattr(weight, "quant_state", None)
    if scales is not None:
        yield from ((each, _SCALES) for each in (scales, scales.state2) if each is not None)
    yield from ((each, _BYTES) for each in (weight, state) if hasattr(each, "SCB"))


def inside_bytes(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Returns what a product with a matrix in NF4 allocates, and frees again before it returns; 0 of other operations.

    It makes the scales and the matrix anew in floating point. With a few rows a GPU does without.
    """
    if func.namespace != "bitsandbytes" or func._schema.name != "bitsandbytes::gemm_4bit":
        return 0
    x, _, shape, _, block = args[:5]
    elements = math.prod(shape)
    packed = args[7] if len(args) > 7 else kwargs.get("absmax_8bit")
    # A GPU keeps the scales' differences from their mean until it has the matrix, beside the scales themselves.
    scales = 0 if packed is None else 2 * rounded_bytes(4 * math.ceil(elements / block))
    return rounded_bytes(elements * x.element_size()) + scales


class _Int8Product(torch.autograd.Function):
    """Allocates and keeps what a product with a matrix in int8 does on a GPU, and computes nothing.

    Its input is no saved tensor there, so that checkpointing does not free it either.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """Returns a result of (..., K) inputs and (N, K) bytes, (..., N); inputs are taken to have no outliers."""
        flat = x.reshape(-1, x.shape[-1])
        quantised = torch.empty_like(flat, dtype=torch.int8)
        half = flat.to(torch.float16)
        outliers = half.abs() >= 1
        del half, outliers
        sums = flat.new_empty(len(flat), len(weight), dtype=torch.int32)
        result = sums.to(torch.float16).to(x.dtype)
        del quantised, sums
        ctx.kept = flat, weight, x.shape
        return result.reshape(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Returns a gradient of the input's shape, by the matrix in floating point."""
        flat, weight, shape = ctx.kept
        matrix = weight.to(flat.dtype, copy=True)
        grad = grads[0].reshape(-1, grads[0].shape[-1]).to(flat.dtype)
        return torch.matmul(grad, matrix).view(shape), None


def int8_product(x: Tensor, weight: Tensor, *arguments: Any, state: Any, **options: Any) -> Tensor:
    """Stands for `bitsandbytes.matmul` on a GPU; on a CPU, training makes a matrix in floating point instead."""
    return _Int8Product.apply(x, state.CB)
