"""Tensors of shapes alone against the same operations on real ones."""

import pytest
import torch
from torch import Tensor

from meft_runner.memory.shapes import ShapeMode, ShapeTensor

OPERATIONS = {
    "broadcast": lambda x: x + x[:1],
    "whole numbers and fractions": lambda x: (x.int() * 1, x.int() * 1.0),
    "matrix product": lambda x: torch.nn.functional.linear(x, x.new_zeros(5, 6), x.new_zeros(5)),
    "a view and what is made of it": lambda x: x.view(2, 2, 6).transpose(0, 1).contiguous(),
    "in place": lambda x: x.clone().mul_(2).add_(x),
    "a constant": lambda x: x * torch.tensor(2.0),
    "several results": torch.aminmax,
    "a sum over a part": lambda x: x.sum(dim=-1, keepdim=True, dtype=torch.float64),
    "tensors of nothing": lambda x: torch.ones(3, dtype=torch.int64) + torch.arange(3),
    "a list": lambda x: torch.cat([x, x.half()]),
}  # fmt: skip


def described(result):
    return [(t.shape, t.stride(), t.dtype, t.device) for t in (result if isinstance(result, tuple) else (result,))]


@pytest.mark.parametrize("name", OPERATIONS)
def test_results_look_like_those_of_real_tensors(name):
    operation = OPERATIONS[name]
    with ShapeMode():
        for _ in range(2):  # worked out, then looked up
            fake = operation(torch.zeros(4, 6))
            assert isinstance(fake[0], ShapeTensor)
            assert described(fake) == described(operation(_real(4, 6)))


def _real(*shape):
    with torch.utils._python_dispatch._disable_current_modes():
        return torch.zeros(*shape)


def test_of_what_may_be_true_all_is():
    with ShapeMode():
        labels = torch.zeros(4, 6, dtype=torch.long)
        assert described((labels != -100).nonzero()) == described(_real(4, 6).eq(0).nonzero())


def test_views_share_a_storage_and_copies_do_not():
    with ShapeMode():
        for _ in range(2):
            x = torch.zeros(4, 6)
            storage = x.untyped_storage()._cdata
            same = [x.view(-1), x[1:], x.t(), x.detach(), torch.ops.aten._unsafe_view(x, [24]), x.mul_(2)]
            assert all(tensor.untyped_storage()._cdata == storage for tensor in same)
            assert all(tensor.untyped_storage()._cdata != storage for tensor in (x.clone(), x + 0, x.double()))


def test_gradients_and_autocast():
    with ShapeMode():
        weight = torch.nn.Parameter(torch.zeros(5, 6))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = torch.nn.functional.linear(torch.zeros(4, 6), weight)
        assert output.dtype == torch.bfloat16
        output.sum().backward()
        assert described(weight.grad) == described(weight)


def test_what_reads_real_tensors_alone_is_run():
    real = torch.arange(3)
    with ShapeMode():
        doubled: Tensor = real * 2
    assert doubled.tolist() == [0, 2, 4]


def test_no_use_outside_of_the_mode():
    with ShapeMode():
        x = torch.zeros(2)
    with pytest.raises(RuntimeError, match="need ShapeMode"):
        x + 1


@pytest.mark.parametrize("mask", [torch.tensor([True, False, True, True]), torch.tensor([[True, False, True]] * 4)])
def test_a_mask_with_values_tells_how_many_it_takes(mask):
    with ShapeMode():
        found = torch.zeros(4, 3, 6)[mask]
    assert isinstance(found, ShapeTensor)
    assert described(found) == described(_real(4, 3, 6)[mask])
