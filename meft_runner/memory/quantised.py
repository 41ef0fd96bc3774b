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
    """Returns what an operation of bitsandbytes allocates, and frees again before it returns.

    A product with a matrix in NF4 makes its scales and the matrix anew in floating point (with a few rows, a GPU does
    without), and one with a matrix in int8 has a result in int32 and in float16 before the one that it returns.
    """
    if func.namespace != "bitsandbytes":
        return 0
    x, name = args[0], func._schema.name.removeprefix("bitsandbytes::")
    if name == "gemm_4bit":
        elements, scales = math.prod(args[2]), math.ceil(math.prod(args[2]) / args[4])
        nested = kwargs.get("absmax_8bit") is not None  # the difference from their mean, and then they themselves
        return rounded_bytes(elements * x.element_size()) + (2 * rounded_bytes(4 * scales) if nested else 0)
    if name == "int8_mixed_scaled_mm":
        elements = math.prod(x.shape[:-1]) * args[2].shape[0]
        return rounded_bytes(4 * elements) + (0 if x.dtype == torch.float16 else rounded_bytes(2 * elements))
    return 0
