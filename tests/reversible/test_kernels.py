"""Which form of the exact arithmetic is chosen, and what is said where the one that was asked for cannot be had."""

from types import SimpleNamespace

import pytest
import torch

from meft_runner.reversible import arithmetic, kernels
from meft_runner.reversible.kernels import KERNELS, arithmetic_for, hindrance
from tests.helpers.toy import hidden_states, stack


@pytest.fixture
def interpreted(monkeypatch):
    """Triton's interpreter, where there is no GPU; what was tried before is tried again."""
    pytest.importorskip("triton")
    kernels._problem.cache_clear()
    yield
    kernels._problem.cache_clear()


def test_what_keeps_fused_kernels_from_running_is_named(monkeypatch):
    gpu, cpu, other = map(torch.device, ("cuda", "cpu", "meta"))
    assert "for a device of type meta" in hindrance(other)
    assert hindrance(cpu) is None
    kernels._problem.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install triton" in hindrance(gpu)
    assert 'pip install "meft-runner[cpu]"' in hindrance(cpu)
    kernels._problem.cache_clear()


@pytest.mark.parametrize(("device", "module"), [("cuda", "fused_gpu"), ("cpu", "fused_cpu")])
def test_the_choice_on_a_device(device, module, monkeypatch):
    """With a stand-in for a tensor there."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(kernels, "Tensor", SimpleNamespace)
    tensor = SimpleNamespace(dtype=torch.bfloat16, device=torch.device(device), numel=lambda: 1)
    monkeypatch.setattr(kernels, "importlib", SimpleNamespace(import_module=lambda name: name))
    monkeypatch.setattr(kernels, "_problem", lambda form, device: None)
    assert arithmetic_for("plain", tensor) is arithmetic
    assert {arithmetic_for(choice, tensor) for choice in ("auto", "fused")} == {f"meft_runner.reversible.{module}"}
    monkeypatch.setattr(kernels, "_problem", lambda form, device: "there is no compiler")
    assert arithmetic_for("auto", tensor) is arithmetic
    with pytest.raises(RuntimeError, match="fused kernels were asked for, but there is no compiler"):
        arithmetic_for("fused", tensor)


def test_without_a_compiler_the_plain_form_runs(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    kernels._problem.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert arithmetic_for("auto", hidden_states()) is arithmetic
    with pytest.raises(RuntimeError, match="Numba is not installed"):
        arithmetic_for("fused", hidden_states())
    kernels._problem.cache_clear()


def test_kernels_that_give_other_results_are_left_alone(interpreted, monkeypatch):
    from meft_runner.reversible import fused_gpu

    advance = fused_gpu.advance

    def other(stream, increment, *args):
        made = advance(stream, increment, *args)
        made.result[0, 0] += 1
        return made

    monkeypatch.setattr(fused_gpu, "advance", other)
    with (
        pytest.warns(UserWarning, match=r"its results differ.*single operations"),
        pytest.raises(RuntimeError, match="its results differ"),
    ):
        arithmetic_for("fused", hidden_states())


def test_kernels_that_do_not_compile_are_left_alone(interpreted, monkeypatch):
    from meft_runner.reversible import fused_gpu

    def broken(*args):
        raise OSError("no C compiler")

    monkeypatch.setattr(fused_gpu, "advance", broken)
    with pytest.warns(UserWarning, match=r"OSError: no C compiler"), pytest.raises(RuntimeError, match="no C compiler"):
        arithmetic_for("fused", hidden_states())


def test_unknown_kernels_are_refused():
    with pytest.raises(ValueError, match="auto, plain, fused"):
        stack(kernels="quick")


@pytest.mark.parametrize("choice", KERNELS)
def test_other_modes_take_any_choice(choice):
    stack("float", kernels=choice)(hidden_states()).sum().backward()
