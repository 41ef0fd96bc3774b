import gc

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import LinearCrossEntropyOptions
from torch.nn.functional import linear_cross_entropy

from meft_runner.memory import TrackedMeter
from meft_runner.memory.meters import rounded_bytes


@given(st.integers(0, 2**40))
def test_rounding_is_up_to_the_next_block(count):
    rounded = rounded_bytes(count)
    assert rounded % 512 == 0
    assert 0 <= rounded - count < 512


def test_live_bytes_follow_storages():
    with TrackedMeter() as meter:
        a = torch.zeros(1000)  # 4000 bytes, 4096 in blocks
        assert meter.live_bytes() == 4096
        view = a[10:]
        assert meter.live_bytes() == 4096  # a view shares its storage
        del a
        assert meter.live_bytes() == 4096
        del view
        assert meter.live_bytes() == 0
        assert meter.peak_bytes() == 4096


def test_peak_sees_what_is_gone_again():
    with TrackedMeter() as meter:
        kept = torch.zeros(256)
        (kept + 1).sum()
        assert meter.live_bytes() == 1024
        assert meter.peak_bytes() == 1024 + 1024 + 512
        meter.reset_peak()
        assert meter.peak_bytes() == 1024


def test_an_operation_written_in_python_is_followed_inside():
    states, weight, targets = torch.zeros(8, 16), torch.zeros(1000, 16), torch.zeros(8, dtype=torch.long)
    with TrackedMeter() as meter:
        linear_cross_entropy(states, weight, targets, options=LinearCrossEntropyOptions(batch_chunk_size=4))
        logits = 4 * 1000 * 4  # of a chunk
        assert meter.peak_bytes() - meter.live_bytes() >= logits


def test_saved_tensors_count_until_backward():
    x = torch.randn(256, requires_grad=True)
    with TrackedMeter() as meter:
        loss = x.exp().sum()
        held = meter.live_bytes()
        assert held == 1024 + 512  # exp keeps its result
        loss.backward()
        del loss
        gc.collect()
        assert meter.live_bytes() == 1024  # x.grad


def test_tensors_from_before_count_once_they_are_followed():
    a = torch.zeros(256)
    with TrackedMeter() as meter:
        b = a.view(2, 128)
        assert meter.live_bytes() == 1024  # an operation returned a view of it
        meter.follow([a, b])
        assert meter.live_bytes() == 1024
