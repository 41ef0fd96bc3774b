"""Several processes that train one model together, as torchrun and accelerate launch start them."""

from collections.abc import Callable
from typing import TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, reduce

from meft_runner.errors import UserError

_T = TypeVar("_T")


def is_main() -> bool:
    """Tells whether this process is the one that writes records and prints."""
    return _state().is_main_process


def by_main(function: Callable[[], _T]) -> _T:
    """Calls a function in the main process alone, and returns its value in every process.

    Raises:
        UserError: the function raised it; it comes in every process, so that none waits for another.
    """
    value: _T | None = None
    problem: UserError | None = None
    if is_main():
        try:
            value = function()
        except UserError as error:
            problem = error
    value, problem = broadcast_object_list([value, problem])
    if problem is not None:
        raise problem
    return cast(_T, value)


def any_of(value: bool) -> bool:
    """Tells whether the value is true in any of the processes."""
    if _state().num_processes == 1:
        return value
    return bool(reduce(torch.tensor(int(value), device=_state().device), "sum"))


def _state() -> PartialState:
    return PartialState(cpu=not torch.cuda.is_available())
