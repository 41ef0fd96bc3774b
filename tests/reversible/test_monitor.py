import itertools

import pytest
import torch
from torch import nn

from meft_runner.reversible import ReversalError, ReversibleBlock, ReversibleStack, StreamOverflowError
from tests.helpers.toy import Mix, coupling, hidden_states, stack


class Unsteady(Mix):
    """Gives another result each time, as a kernel that is not deterministic does."""

    calls = itertools.count()

    def forward(self, x, inputs):
        return super().forward(x, inputs) + 1e-3 * next(self.calls)


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


def test_a_wider_grid_holds_the_same_stream():
    blocks = [ReversibleBlock(Mix(8), Constant(4e4), "layer 0")]
    ReversibleStack(blocks, coupling(), grid_bits=12)(hidden_states()).sum().backward()


@pytest.mark.parametrize("mode", ["exact", "float", "stored"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_stop_every_mode(mode, value):
    blocks = [ReversibleBlock(Mix(8), Constant(value if i == 1 else 1.0), f"layer {i}") for i in range(3)]
    module = ReversibleStack(blocks, coupling(), mode)
    with pytest.raises(StreamOverflowError, match="layer 1"):
        module(hidden_states())


def test_a_bad_input_is_told_from_a_bad_layer():
    with pytest.raises(StreamOverflowError, match="input of the first"):
        stack()(hidden_states() * float("nan"))
