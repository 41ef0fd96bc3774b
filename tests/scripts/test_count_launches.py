"""How many operations the exact engine launches for a half of a block."""

import runpy
from pathlib import Path

import pytest
import torch

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "count_launches.py"))


@pytest.mark.parametrize(("scale", "forward", "backward"), [("1/10", 16, 14), ("1/16", 13, 14), ("1", 9, 9)])
def test_the_plain_arithmetic(scale, forward, backward):
    found = SCRIPT["a_half"]("plain", scale, torch.float32)
    assert found["forward"] <= forward
    assert found["backward"] <= backward


def test_a_fused_kernel_takes_the_place_of_most():
    pytest.importorskip("triton")
    plain, fused = (SCRIPT["a_half"](kernels, "1/10", torch.float32) for kernels in ("plain", "fused"))
    assert fused["forward"] <= 2
    assert fused["backward"] <= plain["backward"] - 6
