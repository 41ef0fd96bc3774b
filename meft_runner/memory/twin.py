"""A model of shapes alone beside one with data, or beside one on the meta device."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor, nn

from meft_runner.memory.shapes import ShapeTensor
from meft_runner.memory.step import weights_of


def twin(model: nn.Module) -> nn.Module:
    """Returns a copy of a model whose parameters and buffers have shapes alone, to be made and run in `ShapeMode`.

    The model itself stays as it is, and its weights are not copied. What its parts share is shared in the copy.
    """
    return _copied(model, _parameter, _of_shape)


def on_meta(model: nn.Module) -> nn.Module:
    """Returns a copy of a model on the meta device, where a method can be applied to it, as it cannot be to a twin.

    The model itself stays as it is, and its weights are not copied.
    """
    return _copied(model, _meta_parameter, lambda tensor: tensor.detach().to("meta"))


def _copied(
    model: nn.Module, of_parameter: Callable[[nn.Parameter], Any], of_tensor: Callable[[Tensor], Any]
) -> nn.Module:
    made: dict[int, Any] = {id(parameter): of_parameter(parameter) for parameter in model.parameters()}
    for tensor in weights_of(model):
        made.setdefault(id(tensor), of_tensor(tensor))
    memo = dict(made)  # what stands in it is not copied, but taken
    copied = copy.deepcopy(model, memo)
    for parameter in model.parameters():  # quantised ones say how, with tensors of their own
        vars(made[id(parameter)]).update(copy.deepcopy(vars(parameter), memo))
    return copied


def _parameter(parameter: nn.Parameter) -> nn.Parameter:
    """Returns a parameter of the same shape, whose class has the same name: peft knows quantised weights by it."""
    made: Any = nn.Parameter(_of_shape(parameter), parameter.requires_grad)
    made.__class__ = _named(type(parameter).__name__)
    return made


def _meta_parameter(parameter: nn.Parameter) -> Any:
    return Tensor._make_subclass(type(parameter), parameter.detach().to("meta"), parameter.requires_grad)


def _of_shape(tensor: Tensor) -> ShapeTensor:
    return ShapeTensor(tensor.detach().to("meta"))


@cache
def _named(name: str) -> type[ShapeTensor]:
    return type(name, (ShapeTensor,), {})
