"""Fused kernels against torch's own operations, bit for bit: Numba's on the CPU, Triton's on a GPU or interpreted."""

import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from meft_runner.config.methods import KernelForm
from meft_runner.methods.layers import reversible_stacks
from meft_runner.reversible import arithmetic
from meft_runner.reversible.coupling import Weights
from meft_runner.reversible.kernels import arithmetic_for
from meft_runner.reversible.streams import ExactStreams
from tests.helpers.exactness import PRECISIONS, train_once
from tests.helpers.toy import coupling, hidden_states, stack

ROOT = Path(__file__).parents[2]
FLOATS = [torch.float32, torch.bfloat16, torch.float16]
LOW, HIGH = -(2**31), 2**31 - 1
EDGES = [LOW, LOW + 1, -(2**24) - 1, -257, -256, -17, -16, -11, -10, -9, -1, 0, 1, 9, 10, 255, 256, 2**24 + 1, HIGH]
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered in cast")  # numpy's
QUICK = [1, 2, 3, 4, 5, 7, 8, 10, 15, 16, 17, 100, 127, 128, 255, 256]


@pytest.fixture(scope="module", params=["fused_cpu", "fused_gpu"])
def fused(request):
    """The kernels; where they run is torch's default device."""
    kernels = pytest.importorskip(f"meft_runner.reversible.{request.param}", exc_type=ImportError)
    with torch.device("cuda" if request.param == "fused_gpu" and torch.cuda.is_available() else "cpu"):
        yield kernels


@pytest.fixture(scope="module")
def fused_gpu():
    return pytest.importorskip("meft_runner.reversible.fused_gpu", exc_type=ImportError)


def here(tensor):
    return tensor.to(torch.get_default_device())


def integers(*shape, seed=0):
    """Any int32 integers, those at the edges first."""
    found = torch.randint(LOW, HIGH, shape, generator=torch.Generator().manual_seed(seed))
    found.view(-1)[: len(EDGES)] = torch.tensor(EDGES)[: found.numel()]
    return here(found.to(torch.int32))


def halves(*shape, dtype=torch.float32, seed=1):
    """Multiples of 1/8, most of which are not on a grid of step 1 or 1/2, and many half-way between its points."""
    found = torch.randint(-999, 1000, shape, generator=torch.Generator().manual_seed(seed)) / 8
    return here(found.to(dtype))


def check_equal(fused, stream, increment, count, mu=1.0, bits=0, value_dtype=None):
    """Advances and reverts by both forms."""
    made = fused.advance(stream, increment, count, mu, bits, value_dtype)
    plain = arithmetic.advance(stream, increment, count, mu, bits)
    assert torch.equal(made.result, plain.result)
    assert (made.kept is None) == (plain.kept is None) == (count == 1)
    assert made.kept is None or torch.equal(made.kept, plain.kept)
    assert made.ends[0] == made.ends[1] == increment.abs().max()
    assert made.checksum == arithmetic.checksum(stream)
    if value_dtype is not None:
        assert torch.equal(made.value, ExactStreams(bits).value(plain.result, value_dtype))
    back = plain.result.clone()
    assert fused.revert_(back, increment, plain.kept, count, mu, bits) == arithmetic.checksum(stream)
    assert torch.equal(back, stream)


def test_a_pass_that_keeps_nothing_leaves_nothing_that_another_cannot_keep(fused, monkeypatch):
    monkeypatch.setattr(fused, "_ready", {}, raising=False)
    with torch.inference_mode():
        fused.advance(integers(3, 14), halves(3, 14), 10, 1.0, 0)
    assert not fused.advance(integers(3, 14), halves(3, 14), 10, 1.0, 0).checksum.is_inference()


def test_scalars_are_where_the_stream_is():
    stream, increment = torch.arange(6, dtype=torch.int32).view(2, 3), torch.ones(2, 3)
    kernels = arithmetic_for("auto", increment)
    with torch.device("meta"):  # a default device that is not the model's
        made = kernels.advance(stream, increment, 10, 1.0, 0)
        back = kernels.revert_(made.result.clone(), increment, made.kept, 10, 1.0, 0)
    assert {made.checksum.device.type, made.ends[0].device.type, back.device.type} == {"cpu"}


def test_a_value_in_float64_has_all_bits_of_the_stream():
    stream, streams = torch.tensor([[2**30 + 1]], dtype=torch.int32), ExactStreams(0)
    made = streams.advance(stream, Weights(Fraction(1)), torch.zeros(1, 1), torch.float64)
    assert made.value is None or made.value == 2**30 + 1


def test_a_graph_that_is_recorded_holds_the_arithmetic():
    def advanced(increment):
        stream = torch.zeros(2, 3, dtype=torch.int32)
        return arithmetic_for("auto", increment).advance(stream, increment, 1, 1.0, 0).result

    assert make_fx(advanced)(torch.ones(2, 3))(torch.full((2, 3), 5.0)).eq(5).all()


@pytest.mark.parametrize(
    "count", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in range(1, 257)]
)
def test_every_count(fused, count):
    check_equal(fused, integers(3, 14, seed=count), halves(3, 14), count)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("count", [1, 2, 4, 10, 256])
@pytest.mark.parametrize(
    "width", [1, 2, 3, 7, 8, 33, pytest.param(4100, marks=pytest.mark.slow)]
)  # 4100: several tiles
@pytest.mark.thin(3)
def test_every_width_and_dtype(fused, width, count, dtype):
    check_equal(fused, integers(2, 3, width), halves(2, 3, width, dtype=dtype), count, bits=2, value_dtype=dtype)


@settings(max_examples=15)
@given(
    count=st.integers(1, 256),
    mu=st.floats(1e-3, 10.0),
    bits=st.integers(4, 24),
    rows=st.integers(1, 9),
    width=st.integers(1, 70),
    dtype=st.sampled_from(FLOATS),
    seed=st.integers(0, 2**31),
)
@example(count=10, mu=0.9, bits=16, rows=3000, width=6, dtype=torch.float32, seed=0)  # more rows than a tile has
def test_any_factor_and_grid(fused, count, mu, bits, rows, width, dtype, seed):
    magnitude = 2.0 ** (29 - bits) / (5 * mu)
    increment = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)).clamp(-5, 5) * magnitude
    increment = here(increment.clamp(-6e4, 6e4).to(dtype))
    check_equal(fused, integers(rows, width, seed=seed), increment, count, mu, bits, dtype)


def test_halves_are_rounded_to_even_as_torch_does_at_every_magnitude(fused):
    around = torch.tensor([2.0**power for power in range(-3, 24)])
    steps = torch.arange(-8, 9) / 4
    increment = torch.cat([(around[:, None] + steps).flatten(), torch.tensor([8388607.5, 8388608, 2147483520.0, 0.5])])
    increment = torch.cat([increment, -increment, torch.tensor([0.0, -0.0])])
    stream = torch.zeros_like(increment, dtype=torch.int32)
    expected = increment.double().round().to(torch.int32)
    assert torch.equal(fused.advance(stream, increment, 1, 1.0, 0).result, expected)
    next_up = torch.nextafter(increment, torch.tensor(float("inf"))).clamp(max=2147483520.0)
    check_equal(fused, stream, next_up, 10)


@pytest.mark.parametrize("dtype", FLOATS)
def test_values_are_rounded_as_torch_does(fused, dtype):
    """Around numbers half-way between two of the dtype's, and at the limits of the integers."""
    near = torch.tensor([2**power + step for power in range(6, 31) for step in range(-3, 4)])
    ties = torch.tensor([2**power + 2 ** (power - 8) * odd for power in range(9, 31) for odd in (1, 3, 5)])
    stream = torch.cat([near, ties, -near, -ties, torch.tensor(EDGES)]).clamp(LOW, HIGH).to(torch.int32)
    zeros = torch.zeros_like(stream, dtype=torch.float32)
    for bits in (4, 16, 24):
        made = fused.advance(stream, zeros, 1, 1.0, bits, dtype)
        assert torch.equal(made.value, ExactStreams(bits).value(stream, dtype))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_seen(fused, wrong, dtype):
    increment = halves(4, 9, dtype=dtype)
    increment[2, 3] = wrong
    low, high = fused.advance(integers(4, 9), increment, 10, 1.0, 4).ends
    assert low is high
    assert low.isnan() if math.isnan(wrong) else low == math.inf


def test_the_checksum_sees_a_change_up_here_and_down_there(fused):
    stream, increment = integers(5, 6), halves(5, 6)
    changed = stream.clone()
    changed[1, 2] += 1
    changed[3, 4] -= 1
    first, second = (fused.advance(each, increment, 10, 1.0, 4).checksum for each in (stream, changed))
    assert first != second


def test_increments_in_any_layout_are_read_and_streams_are_not(fused):
    stream, increment = integers(6, 8), halves(8, 6).t()
    check_equal(fused, stream, increment, 10)
    with pytest.raises(ValueError, match="contiguous"):
        fused.advance(stream.t(), increment.t(), 10, 1.0, 16)
    with pytest.raises(ValueError, match="contiguous"):
        fused.revert_(stream.t(), increment.t(), None, 1, 1.0, 16)


def test_what_does_not_go_together_is_refused(fused):
    stream, increment = integers(6, 8), halves(6, 8)
    with pytest.raises(ValueError, match=r"\(6, 1\).*\(6, 8\)"):
        fused.advance(stream, increment[:, :1], 10, 1.0, 16)
    kept = fused.advance(stream, increment, 10, 1.0, 16).kept
    with pytest.raises(ValueError, match="remainders"):
        fused.revert_(stream, increment, kept[:, :2], 10, 1.0, 16)


def test_pieces_of_tokens_are_reverted_by_themselves(fused):
    stream, increment = integers(2, 5, 7), halves(2, 5, 7)
    made = fused.advance(stream, increment, 10, 0.9, 4)
    back = made.result.clone()
    for place in (slice(0, 4), slice(4, 10)):
        pieces = (each.view(10, 1, -1)[place] for each in (back, increment, made.kept))
        fused.revert_(*pieces, 10, 0.9, 4)
    assert torch.equal(back, stream)


COMPILED = """
import re
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from meft_runner.reversible import fused_gpu

for count, bits in ((1, 8), (2, 1), (10, 4), (256, 8)):
    for number in ("*fp32", "*bf16", "*fp16"):
        sizes = {name: "i32" for name in ("rows", "width", "words")}
        types = {"stream": "*i32", "increment": number, "result": "*i32", "kept": "*u8", "value": number,
                 "peak": "*fp32", "checksum": "*i32", "factor": "fp32", "step": "fp32", **sizes}
        constants = {"COUNT": count, "BITS": bits, "ROWS": 2, "BLOCK": 1024} | ({"kept": None} if count == 1 else {})
        for kernel in (fused_gpu._advance, fused_gpu._revert):
            given = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
            source = ASTSource(kernel, given, constants, {})
            made = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=fused_gpu._OPTIONS)
            assert made.asm["cubin"]
            assert re.search(r"mul\\S*\\.f32", made.asm["ptx"])
            assert not re.search(r"fma\\S*\\.f32", made.asm["ptx"])
"""


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu_and_round_products_by_themselves():
    """Without one: Triton brings the compiler along. A fused multiply-add would round once where torch rounds twice."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", COMPILED], check=True, env=environment, cwd=ROOT)


@pytest.fixture
def chosen(fused, monkeypatch):
    """The kernels, which `fused` stands for where they run; returns their device."""
    if fused.__name__.endswith("fused_cpu"):
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return torch.get_default_device()


def test_the_plain_form_runs_what_the_kernels_do_not(fused, chosen):
    for increment in (hidden_states(dtype=torch.float64), hidden_states(rows=0)):
        assert arithmetic_for("fused", increment) is arithmetic
    assert arithmetic_for("fused", hidden_states().to(chosen)) is fused
    empty = ExactStreams(kernels="fused").advance(
        torch.empty(0, 4, dtype=torch.int32), Weights(Fraction(1, 10)), torch.empty(0, 4), None
    )
    assert empty.result.shape == (0, 4)
    assert empty.ends == (0, 0)


@pytest.mark.parametrize("tie", [coupling(), coupling("1/10", "1/3", swap=False, mu_1=0.9)], ids=["swap", "straight"])
def test_a_stack_trains_the_same(chosen, tie):
    """Loss and gradients, and what the checks of the pass find."""
    found = []
    for choice in ("plain", "fused"):
        module = stack(layers=3, hidden=6, kernels=choice, tie=tie).to(chosen)
        torch.manual_seed(5)
        loss = module(hidden_states(hidden=6).to(chosen)).square().sum()
        loss.backward()
        assert (module.monitor.checked_steps, module.monitor.mismatches) == (1, 0)
        found.append([loss, *(parameter.grad for parameter in module.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("chunks", [1, 3])
@PRECISIONS
@pytest.mark.parametrize("name", ["meft1", pytest.param("meft3", marks=pytest.mark.slow), "lora"])
@pytest.mark.thin(2)
def test_a_model_trains_the_same(chosen, name, precision, chunks):
    found = []
    for kernels in (KernelForm.plain, KernelForm.fused):
        loss, gradients, model = train_once(
            name, "exact", 2, precision, str(chosen), kernels=kernels, chunks=chunks, mu="1-scale"
        )
        assert all(stack.monitor.mismatches == 0 for stack in reversible_stacks(model))
        found.append((loss, gradients))
    (loss, gradients), (fused_loss, fused_gradients) = found
    assert loss == fused_loss
    assert all(torch.equal(gradient, fused_gradients[layer]) for layer, gradient in gradients.items())
