"""Mistakes of those who call the interface: the settings' own messages, as ValueError."""

import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from omegaconf.errors import OmegaConfBaseException

from meft_runner.config.mistakes import explain
from meft_runner.errors import UserError

_P = ParamSpec("_P")
_T = TypeVar("_T")
_GROUP = re.compile(r"\bmethod\.(?=[a-z])")  # an argument is called scale_1, the setting of a run method.scale_1


def with_value_errors(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Lets a function raise a ValueError of one or two lines where a user's mistake is found."""

    @wraps(function)
    def explained(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except (UserError, OmegaConfBaseException) as error:
            raise ValueError(_GROUP.sub("", explain(error) or str(error))) from None

    return explained
