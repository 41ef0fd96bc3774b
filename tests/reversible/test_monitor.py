import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from meft_runner.reversible import (
    ExactStreams,
    ReversalError,
    ReversalMonitor,
    ReversibleBlock,
    ReversibleStack,
    StreamOverflowError,
)
from tests.helpers.toy import Mix, coupling, hidden_states, stack


class Unsteady(Mix):
    """Gives another result each time, as a kernel that is not deterministic does."""

    calls = itertools.count()

    def forward(self, x, inputs):
        return super().forward(x, inputs) + 1e-3 * next(self.calls)


class Balanced(Mix):
    """Comes out a step of the grid higher in one element and lower in another one when it is computed again."""

    def __init__(self, hidden):
        super().__init__(hidden, dropout=0.0)
        self.evaluations = 0

    def forward(self, x, inputs):
        self.evaluations += 1
        result = super().forward(x, inputs)
        if self.evaluations == 2:
            noise = torch.zeros_like(result)
            noise[0, 0, 0], noise[-1, -1, -1] = 2.0**-16, -(2.0**-16)
            result = result + noise
        return result


class Constant(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x, inputs):
        return self.value.expand_as(x)


def unsteady_stack(strict):
    blocks = [ReversibleBlock(Mix(8), (Unsteady if i == 2 else Mix)(8), f"layer {i}") for i in range(5)]
    return ReversibleStack(blocks, coupling(), strict=strict)


def test_a_mismatch_stops_and_names_the_layer_and_the_count():
    module = unsteady_stack(strict=True)
    with pytest.raises(ReversalError, match=r"192 of 192 stream elements .* layer 2"):
        module(hidden_states()).sum().backward()


@pytest.mark.parametrize("seed", range(8))
def test_noise_that_sums_to_zero_is_found_in_its_layer(seed):
    torch.manual_seed(seed)
    blocks = [ReversibleBlock((Balanced if i == 3 else Mix)(8), Mix(8), f"layer {i}") for i in range(5)]
    with pytest.raises(ReversalError, match="first in layer 3"):
        ReversibleStack(blocks, coupling())(hidden_states(seed=seed)).sum().backward()


def test_a_mismatch_is_counted_where_not_strict():
    module = unsteady_stack(strict=False)
    module(hidden_states()).sum().backward()
    assert module.monitor.mismatches == 192
    assert module.monitor.checked_steps == 1


def test_float_mode_reports_its_error():
    module = stack("float", layers=8)
    module(hidden_states()).sum().backward()
    assert 0 < module.monitor.max_error < float("inf")
    assert module.monitor.mismatches == 0


@pytest.mark.parametrize("mode", ["exact", "stored"])
def test_overflow_names_the_layer_and_the_value(mode):
    blocks = [ReversibleBlock(Mix(8), Constant(4e4 if i == 1 else 1.0), f"layer {i}") for i in range(3)]
    module = ReversibleStack(blocks, coupling(), mode)
    with pytest.raises(StreamOverflowError, match=r"4000\d.* at layer 1, .* below 32768"):
        module(hidden_states())


def test_a_half_that_leaves_its_stream_alone_does_not_lower_the_bound():
    blocks = [ReversibleBlock(Constant(2e4), None, f"layer {i}") for i in range(3)]
    module = ReversibleStack(blocks, coupling("1", "1/10"))
    with pytest.raises(StreamOverflowError, match=r"4000\d.* at layer 2"):
        module(hidden_states())


def test_the_bound_counts_what_is_taken_of_an_increment():
    tie = coupling("1/10", "1", mu_1=3.0)
    with pytest.raises(StreamOverflowError, match=r"3000\d.* at layer 0, .* below 2048"):
        ReversibleStack([ReversibleBlock(Constant(1e4), None, "layer 0")], tie, grid_bits=20)(hidden_states())


LARGEST = 2**31 - 1


def largest_integer(first, increments, tie, bits, sign):
    """Returns the largest magnitude of streams that start at `first` and grow by `increments`, in Python's integers."""
    x1 = x2 = round(sign * first * 2.0**bits)
    largest = abs(x1)
    for increment_1, increment_2 in increments:
        x1 = x1 // tie.scale_1.denominator + round(sign * increment_1 * (tie.mu_1 * 2.0**bits))
        x2 = x2 // tie.scale_2.denominator + round(sign * increment_2 * (tie.mu_2 * 2.0**bits))
        largest = max(largest, abs(x1), abs(x2))
        if tie.swap:
            x1, x2 = x2, x1
    return largest


@given(
    ns=st.tuples(st.integers(1, 256), st.integers(1, 256)),
    mus=st.tuples(st.floats(1e-3, 4), st.floats(1e-3, 4)),
    swap=st.booleans(),
    bits=st.integers(4, 24),
    shares=st.lists(st.floats(0, 0.3), min_size=5, max_size=5),
    missing=st.floats(-700, 700),
    sign=st.sampled_from([-1, 1]),
)
def test_no_integer_overflows_that_the_bound_lets_pass(ns, mus, swap, bits, shares, missing, sign):
    tie = coupling(f"1/{ns[0]}", f"1/{ns[1]}", swap, mu_1=mus[0], mu_2=mus[1])
    streams = ExactStreams(bits)
    first, *others = (share * streams.limit for share in shares)
    increments = [others[:2], others[2:]]
    increments[1][0] = 0.0  # then what is missing to the last integer, or a little less or more
    reached = largest_integer(first, increments[:1], tie, bits, sign) if not swap else 0
    increments[1][0] = max(0.0, LARGEST - reached // ns[0] + missing) / 2.0**bits / tie.mu_1
    blocks = [ReversibleBlock(Mix(2), Mix(2), f"layer {index}") for index in range(2)]
    peaks = torch.tensor([first, *increments[0], *increments[1]], dtype=torch.float64)
    largest = largest_integer(first, increments, tie, bits, sign)
    try:
        ReversalMonitor().check_peaks(blocks, peaks, tie, streams)
    except StreamOverflowError:
        assert largest > LARGEST - 2000
    else:
        assert largest <= LARGEST


@pytest.mark.parametrize(
    ("dtype", "missing", "increment", "layers"),
    [
        (torch.float32, 128, 0.6, 200),  # 0.6 of a step is rounded to a whole one
        (torch.float64, 88, 100.0, 1),  # float32 has no number between 128 steps below the limit and the limit
    ],
)
def test_the_bound_counts_single_steps(dtype, missing, increment, layers):
    blocks = [ReversibleBlock(Constant(increment * 2.0**-16), None, f"layer {index}") for index in range(layers)]
    module = ReversibleStack(blocks, coupling("1", "1", swap=False)).to(dtype)
    with pytest.raises(StreamOverflowError, match=r"reach 32768 .* below 32768"):
        module(torch.full((1, 1, 1), 2.0**15 - missing * 2.0**-16, dtype=dtype))


@pytest.mark.parametrize("stored_layers", [0, 1, 2])
def test_the_bound_is_handed_over_to_layers_that_are_stored(stored_layers):
    # In bfloat16 the stream of 32,700 that comes out of layer 0 would be read as 32,640.
    blocks = [ReversibleBlock(Constant(value), None, f"layer {index}") for index, value in enumerate((60.0, 100.0))]
    tie = coupling("1", "1", swap=False)
    module = ReversibleStack(blocks, tie, stored_layers=stored_layers).to(torch.bfloat16)
    with pytest.raises(StreamOverflowError, match=r"reach 3280\d.* at layer 1"):
        module(torch.full((1, 1, 2), 32640.0, dtype=torch.bfloat16))


def test_a_wider_grid_holds_the_same_stream():
    blocks = [ReversibleBlock(Mix(8), Constant(4e4), "layer 0")]
    ReversibleStack(blocks, coupling(), grid_bits=12)(hidden_states()).sum().backward()


@pytest.mark.parametrize("mode", ["exact", "float", "stored"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_stop_every_mode(mode, value):
    blocks = [ReversibleBlock(Mix(8), Constant(value if i == 1 else 1.0), f"layer {i}") for i in range(3)]
    module = ReversibleStack(blocks, coupling(), mode)
    with pytest.raises(StreamOverflowError, match="layer 1") as error:
        module(hidden_states())
    assert ("method.reversal=exact" in str(error.value)) == (mode == "float")


def test_a_bad_input_is_told_from_a_bad_layer():
    with pytest.raises(StreamOverflowError, match="input of the first"):
        stack()(hidden_states() * float("nan"))


@pytest.mark.parametrize("mode", ["exact", "float"])
def test_each_pass_waits_for_the_device_once(mode, monkeypatch):
    waits = []
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "cpu", "numpy"):
        own = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda *args, own=own, name=name: waits.append(name) or own(*args))
    output = stack(mode, kernels="plain")(hidden_states())  # a CPU's own kernels read tensors in place
    assert waits == ["tolist"]
    output.sum().backward()
    assert waits == ["tolist"] * 2
