"""Runs from top to bottom, a few steps each: of real weights, and of tiny models where these do."""

import json
from pathlib import Path

import pytest
import torch

from meft_runner.backbones import FAMILIES
from meft_runner.backbones.loading import load_model
from meft_runner.backbones.processors import load_tokenizer
from meft_runner.backbones.sources import find_source
from meft_runner.config import METHODS, Head
from meft_runner.methods.prepare import prepare
from meft_runner.methods.weights import load_trained
from meft_runner.run import lifecycle as experiment
from meft_runner.run import opening
from meft_runner.run.trainer import MeftTrainer
from tests.helpers.composed import small, tiny


def key_sets(record):
    return {key: set(record.plain()[key]) for key in ("scores", "parameters", "memory", "timing")}


QUICK = ("full", "lora", "meft1", "meft3_start")


@pytest.mark.parametrize(
    "method", [pytest.param(method, marks=() if method in QUICK else pytest.mark.slow) for method in METHODS]
)
@pytest.mark.thin(2)
def test_a_run_leaves_the_record_of_the_contract(method, rte_folder, tmp_path):
    chosen = (small if method == "meft1" else tiny)(rte_folder, tmp_path, f"method={method}")
    record = experiment.run(chosen)
    directory = experiment.run_directory(chosen)
    assert directory.name.startswith(f"{chosen.backbone.name}-rte-{method}-s1-")
    assert json.loads((directory / "record.json").read_text()) == record.plain()
    assert record.status == "complete"
    assert key_sets(record) == {
        "scores": {"metric", "best", "final", "history"},
        "parameters": {"total", "trainable", "layers"},
        "memory": {
            "source", "parameters_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes", "peak_bytes",
            "activation_paper_bytes", "retained_after_forward_bytes", "host_bytes", "batch_size", "length",
        },
        "timing": {"median_step_seconds", "tokens_per_second", "train_seconds"},
    }  # fmt: skip
    (epoch,) = record.scores.history
    assert epoch.plain().keys() == {"epoch", "step", "train_loss", "loss", "accuracy"}
    assert record.scores.best == epoch.metrics["accuracy"]
    assert (record.memory.batch_size, record.memory.length) == (8, 24)
    assert 0 < record.memory.activations_bytes < record.memory.peak_bytes
    if method.startswith("meft"):
        assert record.reversal.plain() == {"mode": "exact", "checked_steps": 5, "mismatches": 0, "max_error": 0.0}
    else:
        assert record.reversal is None
    assert sorted(path.name for path in directory.iterdir()) == ["adapter", "record.json"]


@pytest.mark.parametrize("method", ["lora", "full", "meft2"])
@pytest.mark.thin(2)
def test_saved_weights_give_the_same_logits_in_a_fresh_model(method, rte_folder, tmp_path, monkeypatch):
    models = []
    monkeypatch.setattr(opening, "prepare", lambda *args: models.append(prepare(*args)) or models[-1])
    chosen = tiny(rte_folder, tmp_path, f"method={method}")
    experiment.run(chosen)
    source = find_source(chosen.backbone)
    torch.manual_seed(123)
    fresh = prepare(
        load_model(chosen.backbone, source, Head.classification, 2), FAMILIES["roberta"], chosen.backbone, chosen.method
    )
    load_trained(fresh, experiment.run_directory(chosen) / "adapter")
    inputs = load_tokenizer(chosen.backbone, source, 24)(["a dog"], ["a cat"], return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(models[0].eval()(**inputs).logits, fresh.eval()(**inputs).logits)


@pytest.mark.slow
def test_the_seed_fixes_everything(rte_folder, tmp_path):
    records = [
        experiment.run(tiny(rte_folder, tmp_path / place, f"seed={seed}"))
        for place, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    histories = [record.scores.history for record in records]
    assert histories[0] == histories[1] != histories[2]


def test_exact_and_stored_train_alike(rte_folder, tmp_path):
    losses = [
        experiment.run(tiny(rte_folder, tmp_path, f"method.reversal={mode}")).scores.history[0].metrics["loss"]
        for mode in ("exact", "stored")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_complete_run_is_not_run_again(rte_folder, tmp_path, monkeypatch):
    chosen = tiny(rte_folder, tmp_path, "training.max_steps=1")
    record = experiment.run(chosen)
    monkeypatch.setattr(experiment, "_run", lambda *_: pytest.fail("trained again"))
    assert experiment.run(chosen) == record


def test_an_interrupted_run_goes_on_from_its_checkpoint(rte_folder, tmp_path, monkeypatch, capsys):
    whole = experiment.run(tiny(rte_folder, tmp_path / "whole", "training.epochs=2"))
    chosen = tiny(rte_folder, tmp_path / "cut", "training.epochs=2")
    save = MeftTrainer._save_checkpoint

    def interrupting_save(self, *args, **kwargs):
        save(self, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(MeftTrainer, "_save_checkpoint", interrupting_save)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(chosen)
    directory = experiment.run_directory(chosen)
    assert json.loads((directory / "record.json").read_text())["status"] == "running"
    assert list(directory.glob("checkpoint-5/adapter_model.safetensors"))

    monkeypatch.setattr(MeftTrainer, "_save_checkpoint", save)
    capsys.readouterr()
    resumed = experiment.run(chosen)
    assert "from checkpoint-5, which an earlier call has left" in capsys.readouterr().out
    assert resumed.scores == whole.scores
    assert resumed.reversal == whole.reversal  # of both epochs


def test_bf16_and_several_development_splits(rte_folder, tmp_path):
    for split in ("validation_matched", "validation_mismatched"):
        rows = [json.loads(line) for line in (rte_folder / "validation.jsonl").read_text().splitlines()]
        pairs = [{"premise": r["sentence1"], "hypothesis": r["sentence2"], "label": r["label"]} for r in rows]
        (rte_folder / f"{split}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (rte_folder / "train.jsonl").write_text(Path(rte_folder / "validation_matched.jsonl").read_text())
    record = experiment.run(tiny(rte_folder, tmp_path, "task=mnli", "training.precision=bf16"))
    assert record.scores.history[0].metrics.keys() >= {"accuracy", "accuracy_mismatched"}
    assert record.reversal.mismatches == 0


def test_regression(rte_folder, tmp_path):
    (rte_folder / "train.jsonl").write_text((rte_folder / "validation.jsonl").read_text())
    record = experiment.run(tiny(rte_folder, tmp_path, "task=stsb", "training.max_steps=2"))
    assert record.scores.metric == "pearson"
    assert record.scores.history[0].metrics.keys() >= {"pearson", "spearman"}
