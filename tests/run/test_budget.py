"""A run's memory budget: how many layers it lets keep their activations, and what was predicted of it."""

import json
from types import SimpleNamespace

import pytest
import torch

from meft_runner.config import identity, plain
from meft_runner.config.sizes import written_bytes
from meft_runner.errors import UserError
from meft_runner.methods.layers import reversible_stacks
from meft_runner.methods.stored import reversible_layers, store_layers
from meft_runner.records.memory import Budget
from meft_runner.records.record import new_record, read_record
from meft_runner.reports.labels import method_label
from meft_runner.run import lifecycle
from meft_runner.run.announcement import show_memory
from meft_runner.run.budget import plan_budget
from meft_runner.run.display import Screen
from meft_runner.run.folder import run_directory
from meft_runner.run.measuring import measure_memory
from meft_runner.run.opening import open_run
from tests.helpers.composed import settings, small, tiny
from tests.helpers.folders import make_model_folder
from tests.helpers.language import LANGUAGE_ROWS, make_llama_folder
from tests.helpers.records import record


def opened(chosen):
    return open_run(chosen, torch.device("cpu"), new_record(identity(chosen), plain(chosen), "cpu"), Screen("run"))


def check_plans(chosen, shares=(0.0, 0.45, 1.0)):
    """Holds what is planned within some budgets, from all reversed to all stored, against tracked steps."""
    run = opened(chosen)

    def tracked(stored):
        store_layers(run.model, stored)
        return measure_memory(chosen, run.model, run.data, run.plan.batch_size).peak_bytes

    layers = reversible_layers(run.model)
    peaks = [tracked(stored) for stored in range(layers + 1)]
    for share in shares:
        budget = int(1.01 * (peaks[0] + share * (peaks[-1] - peaks[0])))
        chosen.method.budget = f"{budget / 1000:.3f}KB"
        found = plan_budget(chosen, run.model, run.data, run.plan.batch_size)
        assert found.predicted_peak_bytes == pytest.approx(peaks[found.stored_layers], rel=0.01)
        assert found.predicted_peak_bytes <= found.budget_bytes
        assert found.stored_layers == layers or 1.01 * peaks[found.stored_layers + 1] > found.budget_bytes
        assert measure_memory(chosen, run.model, run.data, run.plan.batch_size).peak_bytes == peaks[found.stored_layers]
    assert found.stored_layers == layers


@pytest.mark.slow
def test_predicted_peaks_of_an_encoder_are_those_tracked(rte_folder, tmp_path):
    check_plans(tiny(rte_folder, tmp_path, "method=meft1", "method.chunks=2", "backbone.repeat=2"))


@pytest.mark.slow
def test_predicted_peaks_of_a_decoder_are_those_tracked(tmp_path):
    make_llama_folder(tmp_path / "model")
    rows = "".join(json.dumps(row) + "\n" for row in 8 * LANGUAGE_ROWS["lm"])
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    file = tmp_path / "rows.jsonl"
    check_plans(settings(
        "backbone=smollm2_135m", f"backbone.path={tmp_path / 'model'}", "backbone.repeat=2", "method=lora",
        "method.reversal=exact", "task=lm", f"task.train_file={file}", f"task.eval_file={file}", "task.max_length=64",
        "training.batch_size=4", "training.gradient_accumulation=2",
    ))  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("typed", [
    "method=meft3 training.precision=bf16", "method=meft2 backbone.weights=nf4", "method=dora method.reversal=float",
    "method=meft1_start backbone.attention=eager method.frozen_layers=1", "method=vera method.reversal=exact",
    "method=meft1 training.gradient_accumulation=2 method.merge=learned",
])  # fmt: skip
def test_predicted_peaks_are_those_tracked_whatever_is_set(typed, rte_folder, tmp_path):
    check_plans(small(rte_folder, tmp_path, *typed.split()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bart", "bert", "deberta", "opt"])
def test_predicted_peaks_are_those_tracked_in_every_family(kind, rte_folder, tmp_path):
    make_model_folder(tmp_path / "model", kind)
    backbone = {"deberta": "deberta_v3_base", "opt": "opt_125m"}.get(kind, kind)
    model = [f"backbone={backbone}", f"backbone.path={tmp_path / 'model'}"]
    check_plans(small(rte_folder, tmp_path, *model, "method=meft1"))


def test_a_run_says_and_records_what_was_planned(rte_folder, tmp_path, capsys):
    chosen = tiny(rte_folder, tmp_path, "method=meft1", "method.budget=1GiB", "backbone.repeat=2")
    record = lifecycle.run(chosen)
    assert record.budget.stored_layers == 4
    assert record.budget.predicted_peak_bytes == pytest.approx(record.memory.peak_bytes, rel=0.01)
    peak = written_bytes(record.budget.predicted_peak_bytes)
    expected = f"the top 4 of 4 layers keep their activations: {peak} at the peak (predicted), of 1GiB"
    assert expected in capsys.readouterr().out
    assert record.config.method.budget == "1GiB"
    assert read_record(run_directory(chosen)).budget == record.budget
    assert method_label(record) == "meft1 (budget=1GiB)"


@pytest.mark.slow
def test_the_same_weights_are_trained_however_many_layers_are_stored(rte_folder, tmp_path):
    found = []
    for typed in ("method.stored_layers=0", "method.stored_layers=1", "method.budget=1GiB"):
        chosen = tiny(rte_folder, tmp_path, "method=meft1", typed)
        record = lifecycle.run(chosen)
        found.append((run_directory(chosen) / "adapter" / "adapter_model.safetensors").read_bytes())
        assert record.reversal.mismatches == 0
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("method", ["meft1", "lora method.reversal=exact"])
@pytest.mark.slow
def test_a_budget_that_holds_no_step_is_refused_with_what_would_do(method, rte_folder, tmp_path):
    typed = ["study=start", *f"method={method}".split()]
    with pytest.raises(UserError) as error:
        lifecycle.run(tiny(rte_folder, tmp_path, *typed, "method.budget=100KB"))
    message = str(error.value)
    assert message.startswith("method.budget=100KB: roberta with method=")
    assert "training.batch_size=4" in message
    enough = message.partition("needs ")[2].partition(" at")[0]
    record = lifecycle.run(tiny(rte_folder, tmp_path, *typed, f"method.budget={enough}"))
    assert record.memory.peak_bytes <= 1.01 * record.budget.budget_bytes


@pytest.mark.parametrize(("budget", "stored"), [("105KiB", 1), ("120KiB", 1), ("130KiB", 2)])
@pytest.mark.thin(3)
def test_a_peak_may_fall_where_a_layer_is_kept(budget, stored, rte_folder, tmp_path, monkeypatch):
    def predicted(step, accumulating):
        kept = sum(stack.stored_layers for stack in reversible_stacks(step.model))
        return SimpleNamespace(peak_bytes={0: 110, 1: 100, 2: 130}[kept] * 1024)

    monkeypatch.setattr("meft_runner.run.budget.predict_step", predicted)
    record = lifecycle.run(tiny(rte_folder, tmp_path, "method=meft1", f"method.budget={budget}", "study=start"))
    assert record.budget.stored_layers == stored


def test_more_layers_than_there_are_cannot_be_stored(rte_folder, tmp_path):
    chosen = tiny(rte_folder, tmp_path, "method=meft1", "method.stored_layers=3", "study=start")
    message = r"^method\.stored_layers=3: roberta has 2 reversible layers here\. Take 0 to 2\."
    with pytest.raises(UserError, match=message):
        lifecycle.run(chosen)


def test_a_study_of_gradients_looks_at_the_layers_that_are_reversed(rte_folder, tmp_path):
    typed = ("method=meft3", "study=gradients", "backbone.repeat=2", "method.reversal=float")
    errors = []
    for stored in (0, 3, 4):
        record = lifecycle.run(tiny(rte_folder, tmp_path, *typed, f"method.stored_layers={stored}"))
        errors.append(max(layer.error for layer in record.gradients))
    assert errors[0] > errors[1] > errors[2] == 0


@pytest.mark.parametrize(("budget", "says"), [(1000, False), (999, True)])
def test_a_measured_peak_above_the_budget_is_told(budget, says, capsys):
    measured = record().memory.model_copy(update={"peak_bytes": 1000 * 2**20})
    planned = Budget(budget_bytes=budget * 2**20, stored_layers=1, predicted_peak_bytes=2**20)
    show_memory(measured, planned, Screen("run"))
    assert ("that is 1MiB more than method.budget" in " ".join(capsys.readouterr().out.split())) is says
