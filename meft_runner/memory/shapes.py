"""Tensors without data that pass for CPU tensors: shapes, dtypes and lifetimes are real, and nothing is computed.

They do what torch's FakeTensorMode does, with the few rules that a training step needs, at a fraction of its time an
operation (a RoBERTa-large step has 40,000).
"""

from collections.abc import Callable, Hashable
from enum import Enum
from functools import cache
from typing import Any, NamedTuple, Self

import torch
from torch import Tag, Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def _need_mode(cls: type, func: Any, *arguments: Any) -> Any:
    """Refuses to run an operation outside of ShapeMode."""
    raise RuntimeError(f"{func}: tensors of shapes alone need ShapeMode")


class ShapeTensor(Tensor):
    """A tensor that says it is on the CPU, so that autocast and autograd treat it so, over one on the meta device.

    Attributes:
        meta: has the storage that views share and whose lifetime counts.
    """

    meta: Tensor

    @staticmethod
    def __new__(cls: type[Self], meta: Tensor) -> Self:
        """Wraps a tensor of the meta device."""
        made: Self = torch.Tensor._make_wrapper_subclass(
            cls, meta.shape, meta.stride(), meta.storage_offset(), dtype=meta.dtype, device=torch.device("cpu")
        )
        made.meta = meta
        return made

    def untyped_storage(self) -> torch.UntypedStorage:
        """Returns the storage inside: that of the wrapper is another one for each view."""
        return self.meta.untyped_storage()

    # Torch calls both on the class, with arguments that its own declarations do not have.
    __torch_dispatch__: Any = classmethod(_need_mode)
    __torch_function__: Any = torch._C._disabled_torch_function_impl  # an operation is seen once, below autograd


class Description(NamedTuple):
    """All that there is to know of a tensor without data and of its own storage."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        """Describes a tensor."""
        return cls(tensor.shape, tensor.stride(), tensor.dtype)

    def make(self) -> ShapeTensor:
        """Returns a new tensor like the one described."""
        return ShapeTensor(torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta"))


class ShapeMode(TorchDispatchMode):
    """Runs every operation on tensors of shapes alone; new tensors have no data either.

    What reads real tensors only, such as generator states, runs as it is. The layers of a model repeat each other,
    so what an operation makes of such shapes is found out once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[Hashable, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Returns what the operation would, without data."""
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Returns what an operation would, without data."""
        tensors = [leaf for value in (*args, *kwargs.values()) for leaf in _leaves(value) if isinstance(leaf, Tensor)]
        if tensors and not any(isinstance(tensor, ShapeTensor) for tensor in tensors):
            return func(*args, **kwargs)
        if func is torch.ops.aten.nonzero.default:  # how many there are, shapes do not tell: all, which needs the most
            count, dimensions = args[0].numel(), args[0].dim()
            return Description(torch.Size((count, dimensions)), (1, count), torch.long).make()
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], [place for index in args[1] for place in _places(index)])
        kind = _kind(func)
        if kind is _Kind.IN_PLACE:
            return args[0]
        if kind is _Kind.OTHER:
            return _run(func, args, kwargs)
        key = (func, *map(_key, args), *((name, _key(value)) for name, value in kwargs.items()))
        made = self._made.get(key)
        if made is not None:
            return _each(lambda value: value.make() if isinstance(value, Description) else value, made)
        result = _run(func, args, kwargs)
        if not _share_storage(tensors, _leaves(result)):
            self._made[key] = _each(lambda value: Description.of(value) if isinstance(value, Tensor) else value, result)
        return result


_Kind = Enum("_Kind", ["IN_PLACE", "NEW", "OTHER"])


@cache
def _kind(func: Any) -> _Kind:
    """Says whether an operation changes its first argument's values, makes new tensors, or does something else."""
    schema = func._schema
    if schema.is_mutable:
        values_alone = schema.name.endswith("_") and len(schema.returns) == 1 and Tag.inplace_view not in func.tags
        return _Kind.IN_PLACE if values_alone else _Kind.OTHER
    makes_views = any(value.alias_info for value in schema.returns)
    known = schema.name.startswith(("aten::", "bitsandbytes::"))
    return _Kind.NEW if known and not makes_views else _Kind.OTHER


def _places(index: Tensor | None) -> tuple[Tensor | None, ...]:
    """Returns an index of numbers in place of a mask, where the mask has values: they tell how many there are."""
    if index is None or isinstance(index, ShapeTensor) or index.dtype != torch.bool:
        return (index,)
    return index.nonzero(as_tuple=True)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Runs an operation on the meta device."""
    given: dict[int, ShapeTensor] = {}

    def unwrap(value: Any) -> Any:
        if isinstance(value, ShapeTensor):
            given[id(value.meta)] = value
            return value.meta
        if isinstance(value, Tensor):
            return value.to("meta")
        return torch.device("meta") if isinstance(value, torch.device) else value

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return given[id(value)] if id(value) in given else ShapeTensor(value)  # what was written to is the same tensor

    inner = [_each(unwrap, value) for value in args]
    named = {name: _each(unwrap, value) for name, value in kwargs.items()}
    if not given and any(argument.name == "device" for argument in func._schema.arguments):
        named["device"] = torch.device("meta")  # it makes a tensor of nothing
    return _each(wrap, func(*inner, **named))


def _leaves(value: Any) -> Any:
    """Returns the values of a list or tuple, or the one value there is: an operation's arguments nest no deeper."""
    return value if type(value) in (list, tuple) else (value,)


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """Applies `change` to each of the leaves."""
    return type(value)(map(change, value)) if type(value) in (list, tuple) else change(value)


def _key(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return Description.of(value)
    return tuple(map(_key, value)) if type(value) in (list, tuple) else (type(value), value)  # 1 is not 1.0


def _share_storage(tensors: list[Tensor], results: Any) -> bool:
    storages = {tensor.untyped_storage()._cdata for tensor in tensors}
    return any(isinstance(result, Tensor) and result.untyped_storage()._cdata in storages for result in results)
