"""Runs with frozen weights in other forms than float32: trained, interrupted, resumed, saved and read back."""

import json
import signal

import pytest
from safetensors.torch import load_file

from meft_runner.reports.labels import method_label
from meft_runner.run import interruption
from meft_runner.run import lifecycle as experiment
from meft_runner.run.folder import run_directory
from meft_runner.run.interruption import InterruptedRunError
from tests.helpers.composed import tiny
from tests.helpers.interrupted import SignalAt, run_with


def weights(chosen):
    return (run_directory(chosen) / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize(("method", "form", "precision"), [
    ("meft1", "nf4", "fp32"),
    pytest.param("meft3", "bf16", "bf16", marks=pytest.mark.slow),
    pytest.param("lora method.reversal=exact", "int8", "bf16", marks=pytest.mark.slow),
    pytest.param("ia3", "nf4", "bf16", marks=pytest.mark.slow),
    pytest.param("vera method.reversal=exact", "nf4", "fp32", marks=pytest.mark.slow),
    pytest.param("dora", "nf4", "bf16", marks=pytest.mark.slow),
    pytest.param("lora method.checkpointing=true", "int8", "fp32", marks=pytest.mark.slow),
])  # fmt: skip
@pytest.mark.slow  # `test_interruption.py` has it of fp32
def test_an_interrupted_run_ends_as_if_it_had_not_been(method, form, precision, rte_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(interruption.Interruption, "stopped", False)  # and put back afterwards
    overrides = [f"backbone.weights={form}", f"training.precision={precision}", *f"method={method}".split()]
    whole, cut = (tiny(rte_folder, tmp_path / name, "training.epochs=2", *overrides) for name in ("whole", "cut"))
    expected = experiment.run(whole)
    with pytest.raises(InterruptedRunError):
        run_with(SignalAt(7, signal.SIGTERM), cut, monkeypatch)
    interruption.Interruption.stopped = False
    found = experiment.run(cut)
    assert weights(cut) == weights(whole)
    assert found.scores.best == expected.scores.best
    saved = load_file(run_directory(cut) / "adapter" / "adapter_model.safetensors")
    assert {str(tensor.dtype) for tensor in saved.values()} == {"torch.float32"}
    trained = [tensor for name, tensor in saved.items() if not name.endswith(("vera_A", "vera_B"))]  # never train
    assert sum(tensor.numel() for tensor in trained) == found.parameters.trainable
    assert found.config.backbone.weights == form
    assert f"weights={form}" in method_label(found)
    assert json.loads((run_directory(cut) / "record.json").read_text())["config"]["backbone"]["weights"] == form
    if found.reversal is not None:
        assert found.reversal.mismatches == 0


def test_a_study_of_gradients_beside_quantised_weights(rte_folder, tmp_path):
    chosen = tiny(rte_folder, tmp_path, "backbone.weights=nf4", "method=meft3", "study=gradients", "backbone.repeat=2")
    layers = experiment.run(chosen).gradients
    assert len(layers) == 4
    assert all(layer.error == 0 for layer in layers)
