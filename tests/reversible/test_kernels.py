"""Which form of the exact arithmetic is chosen, and what is said where the one that was asked for cannot be had."""

from types import SimpleNamespace

import pytest
import torch

from meft_runner.reversible import arithmetic, kernels
from meft_runner.reversible.kernels import KERNELS, arithmetic_for, hindrance
from tests.helpers.toy import hidden_states, stack

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture
def interpreted(monkeypatch):
    """Triton's interpreter, where there is no GPU; what was tried before is tried again."""
    pytest.importorskip("triton")
    kernels._problem.cache_clear()
    yield
    kernels._problem.cache_clear()


@NO_GPU
def test_what_keeps_fused_kernels_from_running_is_named(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert "a GPU" in hindrance()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install triton" in hindrance()


def test_the_choice_on_a_gpu(monkeypatch):
    """With a stand-in for a tensor there."""
    monkeypatch.setattr(kernels, "Tensor", SimpleNamespace)
    on_gpu = SimpleNamespace(is_cuda=True, dtype=torch.bfloat16, device="cuda:0", numel=lambda: 1)
    monkeypatch.setattr(kernels, "importlib", SimpleNamespace(import_module=lambda name: name))
    monkeypatch.setattr(kernels, "_problem", lambda device: None)
    assert arithmetic_for("plain", on_gpu) is arithmetic
    assert {arithmetic_for(choice, on_gpu) for choice in ("auto", "fused")} == {"meft_runner.reversible.fused"}
    monkeypatch.setattr(kernels, "_problem", lambda device: "there is no compiler")
    assert arithmetic_for("auto", on_gpu) is arithmetic
    with pytest.raises(RuntimeError, match="fused kernels were asked for, but there is no compiler"):
        arithmetic_for("fused", on_gpu)


def test_kernels_that_give_other_results_are_left_alone(interpreted, monkeypatch):
    from meft_runner.reversible import fused

    advance = fused.advance

    def other(stream, increment, *args):
        made = advance(stream, increment, *args)
        made.result[0, 0] += 1
        return made

    monkeypatch.setattr(fused, "advance", other)
    with (
        pytest.warns(UserWarning, match=r"its results differ.*single operations"),
        pytest.raises(RuntimeError, match="its results differ"),
    ):
        arithmetic_for("fused", hidden_states())


def test_kernels_that_do_not_compile_are_left_alone(interpreted, monkeypatch):
    from meft_runner.reversible import fused

    def broken(*args):
        raise OSError("no C compiler")

    monkeypatch.setattr(fused, "advance", broken)
    with pytest.warns(UserWarning, match=r"OSError: no C compiler"), pytest.raises(RuntimeError, match="no C compiler"):
        arithmetic_for("fused", hidden_states())


def test_unknown_kernels_are_refused():
    with pytest.raises(ValueError, match="auto, plain, fused"):
        stack(kernels="quick")


@pytest.mark.parametrize("choice", KERNELS)
def test_other_modes_take_any_choice(choice):
    stack("float", kernels=choice)(hidden_states()).sum().backward()
