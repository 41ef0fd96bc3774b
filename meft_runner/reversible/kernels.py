"""Which form of the exact arithmetic runs: torch's operations, or one Triton kernel a half (`fused.py`)."""

import importlib.util
import os
import warnings
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from meft_runner.reversible import arithmetic

_FUSED = "meft_runner.reversible.fused"
KERNELS = ("auto", "plain", "fused")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def hindrance() -> str | None:
    """Returns why fused kernels cannot run here, and what would help; None where they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install triton, on Linux)"
    if not torch.cuda.is_available() and not _interpreted():
        return "Triton needs a GPU and none is visible"
    return None


def arithmetic_for(choice: str, increment: Tensor) -> ModuleType:
    """Returns the module whose `advance` and `revert_` take an increment: `arithmetic` or `fused`.

    Args:
        choice: `auto` (fused on a GPU, where Triton works), `plain` or `fused`.
        increment: (B, S, H) or a piece of it.

    Raises:
        RuntimeError: `fused` was chosen and cannot be had.
    """
    if choice == "plain" or (choice == "auto" and not increment.is_cuda):
        return arithmetic
    if increment.dtype not in _DTYPES or increment.numel() == 0:
        return arithmetic
    if type(increment) is not Tensor:  # one without data, or one that stands for several
        return arithmetic
    problem = _problem(increment.device)
    if problem is None:
        return importlib.import_module(_FUSED)
    if choice == "fused":
        raise RuntimeError(f"fused kernels were asked for, but {problem}")
    return arithmetic


def _interpreted() -> bool:
    """Tells whether Triton runs kernels as Python, on a CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _problem(device: torch.device) -> str | None:
    """Returns what keeps fused kernels from running on a device; where a trial tells, a warning says it, once."""
    missing = hindrance()
    if missing is not None:
        return missing
    try:
        _try_on(device, importlib.import_module(_FUSED))
    except Exception as error:  # whatever a compiler, a driver or a version that does not fit raises
        problem = f"Triton does not work on {device} ({type(error).__name__}: {error})"
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
        fused.revert_(back, increment, made.kept, count, 0.9375, 2)
        pairs = [(made.result, plain.result), (back, stream), (made.checksum, arithmetic.checksum(stream))]
        if plain.kept is not None:
            pairs.append((made.kept, plain.kept))
        if not all(torch.equal(*pair) for pair in pairs):
            raise RuntimeError("its results differ from torch's")
