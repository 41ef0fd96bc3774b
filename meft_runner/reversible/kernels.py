"""Which form of the exact arithmetic runs: torch's operations, or one kernel a half on a GPU or a CPU."""

import importlib.util
import os
import warnings
from functools import cache
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from meft_runner.reversible import arithmetic

KERNELS = ("auto", "plain", "fused")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int32)


class _Form(NamedTuple):
    """One form of fused kernels.

    Attributes:
        module: where they are.
        package: what compiles them.
        missing: what is said where it is not there.
    """

    module: str
    package: str
    missing: str


_TRITON = _Form(f"{__package__}.fused_gpu", "triton", "Triton is not installed (pip install triton, on Linux)")
_NUMBA = _Form(f"{__package__}.fused_cpu", "numba", 'Numba is not installed (pip install "meft-runner[cpu]")')
_FORMS = {"cuda": _TRITON, "cpu": _NUMBA}


def hindrance(device: torch.device) -> str | None:
    """Returns why fused kernels cannot run on a device, and what would help; None where they can."""
    return _problem(_FORMS.get(device.type), device)


def arithmetic_for(choice: str, tensor: Tensor) -> ModuleType:
    """Returns the module whose functions take an increment or a stream: `arithmetic` or one of fused kernels.

    Args:
        choice: `auto` (fused, where that works on the tensor's device), `plain` or `fused`.
        tensor: (B, S, H) or a piece of it.

    Raises:
        RuntimeError: `fused` was chosen and cannot be had.
    """
    if choice == "plain" or tensor.dtype not in _DTYPES or tensor.numel() == 0:
        return arithmetic
    if type(tensor) is not Tensor or get_proxy_mode() is not None:
        return arithmetic  # one without data or that stands for several, or whose operations make a graph
    form, device = _FORMS.get(tensor.device.type), tensor.device
    if choice == "fused" and device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        form = _TRITON  # its interpreter runs kernels as Python
    problem = _problem(form, device)
    if form is not None and problem is None:
        return importlib.import_module(form.module)
    if choice == "fused":
        raise RuntimeError(f"fused kernels were asked for, but {problem}")
    return arithmetic


def checked(stream: Tensor, increment: Tensor) -> Tensor:
    """Returns the increment as fused kernels read it, contiguous.

    Raises:
        ValueError: it does not go with the stream, or the stream is not contiguous.
    """
    if not stream.is_contiguous():
        raise ValueError("a stream must be contiguous")
    if increment.shape != stream.shape or increment.device != stream.device:
        raise ValueError(
            f"an increment of shape {tuple(increment.shape)} on {increment.device} does not go with a stream of shape "
            f"{tuple(stream.shape)} on {stream.device}"
        )
    return increment.contiguous()


def check_remainders(kept: Tensor | None, stream: Tensor, words: int) -> None:
    """Refuses packed remainders, of so many bytes a row, that are not those of a stream.

    Raises:
        ValueError: they are not.
    """
    rows = stream.numel() // stream.shape[-1]
    if kept is not None and not (kept.is_contiguous() and kept.numel() == rows * words):
        raise ValueError(f"remainders of shape {tuple(kept.shape)} do not belong to {tuple(stream.shape)}")


@cache
def _problem(form: _Form | None, device: torch.device) -> str | None:
    """Returns what keeps fused kernels from running on a device; where a trial tells, a warning says it, once."""
    if form is None:
        return f"there are none for a device of type {device.type}"
    if importlib.util.find_spec(form.package) is None:
        return form.missing
    try:
        _try_on(device, importlib.import_module(form.module))
    except Exception as error:  # whatever a compiler, a driver or a version that does not fit raises
        problem = f"{form.package.title()} does not work on {device} ({type(error).__name__}: {error})"
        warnings.warn(f"{problem}; the exact arithmetic runs as single operations of torch", stacklevel=2)
        return problem
    return None


def _try_on(device: torch.device, fused: ModuleType) -> None:
    """Runs both forms on a few numbers, halves among them.

    Raises:
        RuntimeError: they do not agree.
    """
    numbers = torch.arange(-504, 504, device=device)
    stream, increment = (numbers.int() * 1_000_003).view(8, -1), (numbers / 16).view(8, -1)
    for count in (1, 10):
        plain, made = (form.advance(stream, increment, count, 0.9375, 2) for form in (arithmetic, fused))
        back = made.result.clone()
        checksum = arithmetic.checksum(stream)
        pairs = [(made.result, plain.result), (made.checksum, checksum)]
        pairs += [(fused.revert_(back, increment, made.kept, count, 0.9375, 2), checksum), (back, stream)]
        if plain.kept is not None:
            pairs.append((made.kept, plain.kept))
        if not all(torch.equal(*pair) for pair in pairs):
            raise RuntimeError("its results differ from torch's")
