"""Operations that the exact engine launches for a half of a block, beside those of the block's own function.

    python scripts/count_launches.py                    # plain and, where Triton works, fused

An operation counts if it computes: views and allocations do not. A fused kernel counts once. TRITON_INTERPRET=1 lets
Triton run without a GPU.
"""

import argparse
import importlib.util
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from meft_runner.reversible import BlockInputs, Coupling, ReversibleBlock, ReversibleStack
from meft_runner.run.console import print_table

_ALLOCATE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


class Launches(TorchDispatchMode):
    """Counts operations by name, except where it is paused."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()
        self.paused = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation; counts it if it computes."""
        name = func._schema.name.removeprefix("aten::")
        is_view = any(value.alias_info and not value.alias_info.is_write for value in func._schema.returns)
        if not (self.paused or is_view or name in _ALLOCATE):
            self.counted[name] += 1
        return func(*args, **(kwargs or {}))

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Counts nothing inside."""
        self.paused += 1
        try:
            yield
        finally:
            self.paused -= 1

    def apart(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a function like the one given, of which nothing is counted."""

        def run(*args: Any, **kwargs: Any) -> Any:
            with self.pause():
                return function(*args, **kwargs)

        return run

    def kernel(self, kernel: Any) -> Any:
        """Returns a Triton kernel of which each launch counts once."""
        counted, apart = self.counted, self.apart

        class Counted:
            def __getitem__(self, grid: Any) -> Callable[..., Any]:
                counted["fused kernel"] += 1
                return apart(kernel[grid])

        return Counted()


class Function(nn.Module):
    """A block's function of one matrix."""

    def __init__(self, width: int, launches: Launches) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.launches = launches

    def forward(self, x: Tensor, inputs: BlockInputs) -> Tensor:
        """Returns inner(x), (B, S, H)."""
        with self.launches.pause():
            return self.inner(x)


def launches(kernels: str, scale: str, dtype: torch.dtype, layers: int) -> dict[str, Counter[str]]:
    """Returns what a forward and a backward pass launch besides the functions of two halves a layer.

    Args:
        kernels: plain or fused.
        scale: lambda and beta.
        dtype: of the hidden states and increments.
        layers: how many blocks there are.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    counting = Launches()
    blocks = [ReversibleBlock(Function(16, counting), Function(16, counting), f"layer {i}") for i in range(layers)]
    coupling = Coupling(Fraction(scale), Fraction(scale), swap=False)
    stack = ReversibleStack(blocks, coupling, kernels=kernels).to(device, dtype)
    hidden = torch.randn(2, 8, 16, device=device, dtype=dtype)
    stack(hidden).sum().backward()  # what is made once
    stack.zero_grad()
    with _counted_kernels(counting), patch("torch.autograd.grad", counting.apart(torch.autograd.grad)):
        with counting:
            loss = stack(hidden).sum()
        forward = counting.counted.copy()
        with counting:
            loss.backward()
    return {"forward": forward, "backward": counting.counted - forward}


@contextmanager
def _counted_kernels(counting: Launches) -> Iterator[None]:
    """Counts Triton's kernels inside, where they run."""
    if not _triton_works():
        yield
        return
    from meft_runner.reversible import fused_gpu as fused  # noqa: PLC0415  # imports Triton

    with (
        patch.object(fused, "_advance", counting.kernel(fused._advance)),
        patch.object(fused, "_revert", counting.kernel(fused._revert)),
    ):
        yield


def _triton_works() -> bool:
    there = torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
    return there and importlib.util.find_spec("triton") is not None


def a_half(kernels: str, scale: str, dtype: torch.dtype) -> dict[str, float]:
    """Returns launches a half of a block: what three layers need more than one, over the four halves of these."""
    few, many = (launches(kernels, scale, dtype, layers) for layers in (1, 3))
    return {way: (many[way].total() - few[way].total()) / 4 for way in few}


def main() -> None:
    """Prints a table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    forms = ["plain", "fused"] if _triton_works() else ["plain"]
    rows = [
        {"kernels": form, "scale": scale, "dtype": str(dtype).removeprefix("torch."), **a_half(form, scale, dtype)}
        for scale in ("1", "1/10", "1/16")
        for dtype in (torch.float32, torch.bfloat16)
        for form in forms
    ]
    print_table(pd.DataFrame(rows), "operations launched for a half of a block, beside its function's own")


if __name__ == "__main__":
    main()
