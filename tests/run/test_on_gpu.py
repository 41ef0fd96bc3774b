"""Whole runs on a GPU, above all in the forms that are not to be had without one."""

import signal

import pytest
import torch

from meft_runner.run import interruption
from meft_runner.run.folder import run_directory
from meft_runner.run.interruption import InterruptedRunError
from meft_runner.run.lifecycle import run
from tests.helpers.composed import settings, tiny
from tests.helpers.folders import write_lines
from tests.helpers.interrupted import SignalAt, run_with
from tests.helpers.language import LANGUAGE_ROWS, make_llama_folder

pytestmark = pytest.mark.gpu
DEVICE = "cuda" if torch.cuda.is_available() else "tracked"
HALF = "training.precision=bf16"


@pytest.mark.parametrize("words", [
    "method=full training.precision=fp16",
    "method=meft1 training.precision=fp16",
    "method=meft3 training.gradient_accumulation=2 method.merge=learned",
    f"method=meft1 method.offload=true {HALF}",
    f"method=meft2 method.stored_layers=1 method.offload=true {HALF}",
    f"method=meft1 method.budget=1GiB {HALF}",
    f"method=meft3 backbone.weights=bf16 {HALF}",
    "method=meft1 backbone.weights=fp16 training.precision=fp16",
    f"method=lora method.reversal=exact backbone.weights=nf4 {HALF}",
    "method=lora method.reversal=exact backbone.weights=int8 training.precision=fp16",
    "method=ia3 backbone.weights=int8",
    "method=vera method.reversal=exact backbone.weights=nf4",
    "method=dora method.reversal=exact",
    "method=lora method.checkpointing=offload",
    "method=lora method.checkpointing=every_4",
    "method=meft1 backbone.attention=eager",
    "method=meft1 study=gradients backbone.repeat=2",
])  # fmt: skip
def test_a_run(words, rte_folder, tmp_path):
    chosen = tiny(rte_folder, tmp_path, *words.split())
    record = run(chosen)
    assert record.status == "complete"
    if record.reversal is not None and record.reversal.mode == "exact":
        assert record.reversal.mismatches == 0
    if chosen.study is not None:
        assert all(layer.error < 1e-5 for layer in record.gradients)
        return
    assert record.memory.source == DEVICE
    assert 0 < record.memory.activations_bytes < record.memory.peak_bytes
    assert (record.memory.host_bytes > 0) == ("offload" in words)
    assert record.scores.best is not None
    assert (run_directory(chosen) / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(("kind", "words"), [
    ("instruct", "method=meft1 task.generate=true task.max_new_tokens=4"),
    ("instruct", f"method=lora method.reversal=exact backbone.weights=nf4 {HALF} task.generate=true"),
    ("lm", f"method=meft3 task.pack=true {HALF}"),
    ("chat", f"method=lora method.reversal=exact method.stored_layers=1 {HALF}"),
])  # fmt: skip
def test_a_run_of_a_language_model(kind, words, tmp_path):
    make_llama_folder(tmp_path / "llama")
    write_lines(tmp_path / "rows.jsonl", LANGUAGE_ROWS[kind] * 5)
    own = [f"backbone.path={tmp_path / 'llama'}", f"task.train_file={tmp_path / 'rows.jsonl'}", "task.max_length=96"]
    short = ["training.batch_size=4", "training.epochs=1", f"output_dir={tmp_path / 'runs'}"]
    record = run(settings("backbone=smollm2_135m", f"task={kind}", *own, *short, *words.split()))
    assert record.reversal.mismatches == 0
    assert record.memory.source == DEVICE
    assert record.scores.history[0].metrics["perplexity"] > 0


@pytest.mark.parametrize("method", ["meft1", "lora method.reversal=exact backbone.weights=nf4"])
def test_an_interrupted_run_ends_as_if_it_had_not_been(method, rte_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(interruption.Interruption, "stopped", False)
    words = f"training.epochs=2 method={method}".split()
    whole, cut = (tiny(rte_folder, tmp_path / name, *words) for name in ("whole", "cut"))
    expected = run(whole)
    with pytest.raises(InterruptedRunError):
        run_with(SignalAt(7, signal.SIGTERM), cut, monkeypatch)
    interruption.Interruption.stopped = False
    found = run(cut)
    assert found.scores.best == expected.scores.best
    assert [epoch.step for epoch in found.scores.history] == [epoch.step for epoch in expected.scores.history]
