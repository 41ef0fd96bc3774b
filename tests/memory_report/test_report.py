"""`meft-memory` as a user types it."""

import json
import sys

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meft_runner import cli
from meft_runner.config.checks import parse_bytes, parse_memory
from meft_runner.errors import UserError
from meft_runner.memory_report.report import largest
from meft_runner.memory_report.report import report as memory_report
from tests.helpers.commands import call

TINY = ("backbone=minilm", "method=[full,lora,meft1]", "batch=2", "length=16", "backbone.config.num_hidden_layers=2")


def test_rows_of_the_contract(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, cli.meft_memory, *TINY, "checkpointing=[false,true]", "format=json")
    rows = json.loads(out)
    assert code == 0
    assert [(row["method"], row["checkpointing"]) for row in rows] == [
        ("full", False), ("full", True), ("lora", False), ("lora", True), ("meft1", False),
    ]  # fmt: skip
    assert rows[0].keys() >= {
        "backbone", "method", "checkpointing", "batch_size", "length", "precision", "attention", "source",
        "trainable_parameters", "parameters_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes",
        "peak_bytes", "activation_paper_bytes", "retained_after_forward_bytes",
    }  # fmt: skip
    for row in rows:
        parts = ("parameters_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes")
        assert sum(row[part] for part in parts) == row["peak_bytes"]


@pytest.mark.parametrize("form", ["table", "csv", "markdown"])
def test_other_forms(monkeypatch, capsys, form):
    _, out, _ = call(monkeypatch, capsys, cli.meft_memory, *TINY, f"format={form}")
    assert "activations" in out
    assert "meft1" in out


def test_a_measurement_stands_below_each_prediction(monkeypatch, capsys):
    _, out, _ = call(monkeypatch, capsys, cli.meft_memory, *TINY, "measure=true", "format=json")
    rows = json.loads(out)
    assert [row["source"] for row in rows] == ["predicted", "tracked"] * 3
    for predicted, measured in zip(rows[::2], rows[1::2], strict=True):
        assert predicted["peak_bytes"] == pytest.approx(measured["peak_bytes"], rel=0.01)


def test_a_sweep_draws_its_curve(monkeypatch, capsys, tmp_path):
    where = f"output_dir={tmp_path}"
    arguments = ("backbone=minilm", "method=[lora,meft1]", "batch=2", "sweep=length", where, "format=csv")
    _, out, _ = call(monkeypatch, capsys, cli.meft_memory, *arguments)
    assert out.count("minilm") == 2 * 5  # 32, 64, 128, 256 and 512 tokens
    assert {path.name for path in tmp_path.iterdir()} == {"minilm_length.png", "minilm_length.svg"}
    assert "<svg" in (tmp_path / "minilm_length.svg").read_text()


def test_a_sweep_over_depth_changes_the_layers_alone(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(memory_report, "_DEPTHS", (2, 3, 4))
    where = f"output_dir={tmp_path}"
    arguments = ("backbone=minilm", "method=meft1", "batch=2", "length=16", "sweep=depth", where, "format=json")
    _, out, _ = call(monkeypatch, capsys, cli.meft_memory, *arguments)
    rows = pd.DataFrame(json.loads(out))
    assert rows["depth"].tolist() == [2, 3, 4]
    assert rows["parameters_bytes"].diff().dropna().nunique() == 1
    assert rows["retained_after_forward_bytes"].is_monotonic_increasing


def test_a_timeline_is_drawn(monkeypatch, capsys, tmp_path):
    code, _, _ = call(monkeypatch, capsys, cli.meft_memory, *TINY, "timeline=true", f"output_dir={tmp_path}")
    assert code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"minilm_timeline.png", "minilm_timeline.svg"}


def test_what_fits(monkeypatch, capsys):
    arguments = ("backbone=minilm", "method=meft1", "batch=4", "length=64", "fit=128MiB")
    code, out, _ = call(monkeypatch, capsys, cli.meft_memory, *arguments, "backbone.config.num_hidden_layers=2")
    assert code == 0
    assert "largest batch at length 64" in out
    assert "largest length at batch 4" in out


@given(first=st.integers(0, 10**6), slope=st.integers(1, 10**5), bend=st.integers(0, 100), top=st.integers(2, 600))
def test_the_largest_size_that_fits(first, slope, bend, top):
    def peak(size):
        return first + slope * size + bend * size**2

    budget = peak(37)
    answer = largest(peak, budget, limit=top)
    assert answer == ("37" if top > 37 else f"{top} (all that the model reads)")


def test_beyond_what_is_predicted_the_line_is_followed():
    assert largest(lambda size: 100 + 7 * size, 100 + 7 * 1000, known=64) == "about 1000"
    assert largest(lambda size: 100 + 7 * size, 50, known=64) == "0"


@pytest.mark.parametrize(("text", "count"), [("24GiB", 24 * 2**30), ("1.5MiB", 3 * 2**19), ("24GB", 24 * 10**9)])
def test_sizes(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["batch=0"], "batch=0: expected 1 or more"),
        (["length=[128,0]"], "length=0: expected 1 or more"),
        (["length=1000"], "length=1000: roberta reads at most 512 tokens"),
        (["attention=flesh"], "attention[0]: Invalid value 'flesh'"),
        (["precision=fp17"], "precision[0]: Invalid value 'fp17'"),
        (["batch=many"], "batch[0]: Value 'many'"),
        (["fit=24"], "fit=24: expected a number with a unit, as in 24GiB"),
        (["fit=24 gigs"], "fit=24 gigs: expected a number with a unit"),
        (["fit=1MiB", "backbone=minilm", "method=meft1", "length=16"], "GiB more. Take a shorter length"),
        (["backbone=robrta"], "backbone=robrta: there is no such backbone, did you mean 'roberta'"),
        (["method=meft4"], "method=meft4: there is no such method, did you mean 'meft"),
        (["bach=4"], "bach: no such setting, did you mean 'batch'"),
        (["batch"], "batch: no such setting"),
        (["method.adapter_dim=0", "method=meft1"], "method.adapter_dim=0: expected 1 to"),
        (["attention=flash", "measure=true", "method=lora", "backbone=minilm"], "attention=flash: is predicted for a"),
    ],
)
def test_mistakes(monkeypatch, capsys, arguments, message):
    code, _, error = call(monkeypatch, capsys, cli.meft_memory, *arguments)
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) <= 2


def test_a_folder_of_another_architecture(monkeypatch, capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    code, _, error = call(monkeypatch, capsys, cli.meft_memory, "backbone=opt_125m", f"backbone.path={tmp_path}")
    assert code == 2
    assert f"backbone.path={tmp_path}: holds a gpt2 model, backbone=opt_125m expects opt" in error


def test_single_values_are_lists_of_one():
    asked, overrides = parse_memory(["batch=4", "method=meft1", "method.chunks=2"])
    assert (asked.batch, asked.method, overrides) == ([4], ["meft1"], ["method.chunks=2"])
    with pytest.raises(UserError, match="no such setting"):
        parse_memory(["x=1"])


def test_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["meft-memory", "--help"])
    with pytest.raises(SystemExit) as exit_info:
        cli.meft_memory()
    assert exit_info.value.code == 0
    assert "fit=24GiB" in capsys.readouterr().out
