"""`meft-memory` as a user types it."""

import json
import warnings

import pandas as pd
import pytest
from matplotlib.figure import Figure

from meft_runner import cli
from meft_runner.memory_report import cases
from tests.helpers.commands import call

SMALL = ("backbone=minilm", "batch=4", "backbone.config.num_hidden_layers=2")
TINY = ("backbone=minilm", "method=[full,lora,meft1]", "batch=2", "length=16", "backbone.config.num_hidden_layers=2")


def test_rows_of_the_contract(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, cli.meft_memory, *TINY, "checkpointing=[false,true]", "format=json")
    rows = json.loads(out)
    assert code == 0
    assert [(row["method"], row["checkpointing"]) for row in rows] == [
        ("full", "false"), ("full", "true"), ("lora", "false"), ("lora", "true"), ("meft1", "false"),
    ]  # fmt: skip
    assert rows[0].keys() >= {
        "backbone", "method", "checkpointing", "batch_size", "length", "precision", "attention", "source",
        "trainable_parameters", "parameters_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes",
        "peak_bytes", "activation_paper_bytes", "retained_after_forward_bytes", "host_bytes", "weights", "head",
        "offload",
    }  # fmt: skip
    for row in rows:
        parts = ("parameters_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes")
        assert sum(row[part] for part in parts) == row["peak_bytes"]


REVERSED = ("backbone=minilm", "batch=2", "length=16", "backbone.config.num_hidden_layers=2", "method.reversal=exact")


@pytest.mark.slow
def test_a_reversed_method_is_told_from_a_plain_one(monkeypatch, capsys):
    asked = (*REVERSED, "method=[full,lora,meft1]")
    _, out, _ = call(monkeypatch, capsys, cli.meft_memory, *asked, "checkpointing=[false,true]", "format=json")
    assert [(row["method"], row["reversal"], row["checkpointing"]) for row in json.loads(out)] == [
        ("full", None, "false"), ("full", None, "true"), ("lora", "exact", "false"), ("meft1", "exact", "false"),
    ]  # fmt: skip
    _, out, _ = call(monkeypatch, capsys, cli.meft_memory, *TINY, "format=json")
    assert [(row["reversal"], row["checkpointing"]) for row in json.loads(out)] == [
        (None, "false"), *(("off", kind) for kind in ("false", "true", "offload", "every_4")), ("exact", "false"),
    ]  # fmt: skip
    _, out, _ = call(monkeypatch, capsys, cli.meft_memory, *asked, "fit=1TiB", "format=markdown")
    assert "lora (reversal=exact)" in out
    assert "meft1 (" not in out


@pytest.mark.slow
def test_rows_say_what_waits_on_the_host(monkeypatch, capsys):
    asked = (*TINY[2:], "backbone=minilm", "method=[lora,meft3]", "method.offload=true")
    _, out, _ = call(monkeypatch, capsys, cli.meft_memory, *asked, "method.reversal=exact", "format=json")
    packed = 2 * 2 * 16 * 384  # layers, rows, tokens, width: a byte for 1/256, half a byte in both halves for 1/10
    assert [(row["offload"], row["host_bytes"]) for row in json.loads(out)] == [(True, packed), (True, packed)]
    _, out, _ = call(monkeypatch, capsys, cli.meft_memory, *asked, "checkpointing=false", "format=json")
    assert [row["offload"] for row in json.loads(out)] == [False, True]  # LoRA is not reversed
    _, out, _ = call(monkeypatch, capsys, cli.meft_memory, *asked, "checkpointing=false", "fit=1TiB", "format=markdown")
    assert "meft3 + offload" in out
    assert "lora + offload" not in out


def test_forms_of_weights_and_heads_are_combined(monkeypatch, capsys):
    asked = ("backbone=opt_125m", "batch=1", "length=16", "backbone.config.num_hidden_layers=2", "method=[full,lora]")
    own = ("weights=[fp32,nf4]", "head=[lm,classification]", "checkpointing=offload", "format=json")
    _, out, _ = call(monkeypatch, capsys, cli.meft_memory, *asked, *own)
    rows = json.loads(out)
    assert [(row["method"], row["weights"], row["head"]) for row in rows] == [
        ("full", "fp32", "lm"), ("full", "fp32", "classification"),  # it trains no others
        ("lora", "fp32", "lm"), ("lora", "fp32", "classification"),
        ("lora", "nf4", "lm"), ("lora", "nf4", "classification"),
    ]  # fmt: skip
    assert [row["host_bytes"] for row in rows] == 6 * [2 * 16 * 768 * 4]
    _, out, _ = call(monkeypatch, capsys, cli.meft_memory, *asked[:4], "method=lora", "format=json")
    assert json.loads(out)[0]["head"] == "lm"


@pytest.mark.slow
def test_figures_name_a_reversed_method(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cases, "SWEPT_DEPTHS", (1, 2))
    asked = (*REVERSED[:3], "method=[lora,meft1]", f"output_dir={tmp_path}")
    call(monkeypatch, capsys, cli.meft_memory, *asked, "sweep=depth", "method.reversal=float")
    call(monkeypatch, capsys, cli.meft_memory, *asked, "timeline=true", "method.reversal=exact")
    curve, timeline = ((tmp_path / f"minilm_{name}.svg").read_text() for name in ("depth", "timeline"))
    assert "lora (reversal=float)" in curve
    assert "meft1 (reversal=float)" in curve
    assert "minilm lora (reversal=exact), 2 x 16, fp32" in timeline
    assert "minilm meft1, 2 x 16, fp32" in timeline


@pytest.mark.parametrize("form", ["table", "csv", "markdown"])
@pytest.mark.thin(3)
def test_other_forms(monkeypatch, capsys, form):
    _, out, _ = call(monkeypatch, capsys, cli.meft_memory, *TINY, f"format={form}")
    assert "activations" in out
    assert "meft1" in out


def test_libraries_warn_only_where_they_are_asked_to(monkeypatch, capsys):
    monkeypatch.delenv("MEFT_VERBOSE", raising=False)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        call(monkeypatch, capsys, cli.meft_memory, *SMALL, "method=lora", "length=16")
    assert not warned


def test_a_measurement_stands_below_each_prediction(monkeypatch, capsys):
    _, out, _ = call(monkeypatch, capsys, cli.meft_memory, *TINY, "measure=true", "format=json")
    rows = json.loads(out)
    assert [row["source"] for row in rows] == ["predicted", "tracked"] * 3
    for predicted, measured in zip(rows[::2], rows[1::2], strict=True):
        assert predicted["peak_bytes"] == pytest.approx(measured["peak_bytes"], rel=0.01)


def test_a_sweep_draws_its_curve(monkeypatch, capsys, tmp_path):
    where = f"output_dir={tmp_path}"
    arguments = (*SMALL[::2], "method=[lora,meft1]", "batch=2", "sweep=length", where, "format=csv")
    _, out, _ = call(monkeypatch, capsys, cli.meft_memory, *arguments)
    assert out.count("minilm") == 2 * 5  # 32, 64, 128, 256 and 512 tokens
    assert {path.name for path in tmp_path.iterdir()} == {"minilm_length.png", "minilm_length.svg"}
    assert "<svg" in (tmp_path / "minilm_length.svg").read_text()


def test_a_sweep_over_depth_changes_the_layers_alone(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cases, "SWEPT_DEPTHS", (2, 3, 4))
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
    fit = ("method=[full,lora]", "length=64", "fit=100MiB")
    code, out, _ = call(monkeypatch, capsys, cli.meft_memory, *SMALL, *fit, "format=json")
    full, lora = json.loads(out)
    assert code == 0
    assert (full["largest_batch"], full["largest_length"]) == (0, 0)  # weights, gradients and moments alone are more
    assert (lora["largest_batch_source"], lora["largest_length_source"]) == ("predicted", "predicted")
    for size, fits in ((lora["largest_batch"], True), (lora["largest_batch"] + 1, False)):
        asked = (*SMALL[::2], "method=lora", "length=64", f"batch={size}", "format=json")
        (row,) = json.loads(call(monkeypatch, capsys, cli.meft_memory, *asked)[1])
        assert (row["peak_bytes"] <= 100 * 2**20) is fits


@pytest.mark.parametrize(
    ("form", "expected"), [("csv", "backbone,method,"), ("markdown", "| backbone"), ("table", "━")]
)
@pytest.mark.thin(3)
def test_what_fits_in_other_forms(monkeypatch, capsys, form, expected):
    fit = ("method=lora", "length=64", "fit=1TiB", f"format={form}")
    _, out, _ = call(monkeypatch, capsys, cli.meft_memory, *SMALL, *fit)
    assert expected in out
    assert ("512,limit" if form == "csv" else "512 (all that the model reads)") in out


def test_a_timeline_of_every_case(monkeypatch, capsys, tmp_path):
    several = ("method=lora", "batch=[2,4]", "length=[16,32]")
    arguments = ("backbone=minilm", "backbone.config.num_hidden_layers=2", *several)
    call(monkeypatch, capsys, cli.meft_memory, *arguments, "timeline=true", f"output_dir={tmp_path}")
    drawn = (tmp_path / "minilm_timeline.svg").read_text()
    assert all(f"minilm lora, {batch} x {length}, fp32" in drawn for batch in (2, 4) for length in (16, 32))


def test_the_curve_of_measured_steps_is_the_predicted_one(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cases, "SWEPT_BATCHES", (1, 2))
    sweep = ("method=lora", "length=16", "sweep=batch", "measure=true", "format=json", f"output_dir={tmp_path}")
    drawn = []
    monkeypatch.setattr("meft_runner.reports.figures.memory_curve", lambda table, *_: drawn.append(table) or Figure())
    _, out, _ = call(monkeypatch, capsys, cli.meft_memory, *SMALL[::2], *sweep)
    assert [row["source"] for row in json.loads(out)] == ["predicted", "tracked"] * 2
    assert drawn[0]["source"].tolist() == ["predicted"] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("length=1000", "length=1000: roberta reads at most 512 tokens"),
        ("fit=1MiB backbone=minilm method=meft1 length=16", "GiB more. Take a shorter length"),
        ("method.adapter_dim=0 method=meft1", "method.adapter_dim=0: expected 1 to"),
        ("method.adapter_dim=x method=meft1", "method.adapter_dim: Value 'x'"),
        ("length=16 backbone=vit", "length: backbone=vit reads images, which have a length of their own"),
        ("sweep=length backbone=vit", "length: backbone=vit reads images"),
        ("method=lora method.scale_1=1/10", "method.scale_1=1/10: has no effect with method.reversal=off. Add"),
        ("method=[full,lora] method.chunks=2", "method.chunks=2: has no effect with method.reversal=off. Add"),
        ("method=lora method.decomposed=true", "method.decomposed: comes from conf/method/lora.yaml alone"),
        (
            "method=lora method.reversal=exact checkpointing=[false,true]",
            "checkpointing: the layers of method=lora are",
        ),
        ("backbone=[opt,roberta] head=lm", "head=lm: backbone=roberta has no such head, expected classification, span"),
        ("backbone=bart_base method=lora head=classification", "what bart_base does with it depends on tokens"),
        ("method=full weights=nf4", "weights=nf4: method=full trains the weights themselves, as fp32."),
        ("method=lora weights=bf16", "weights=bf16: with precision=fp32 weights of another precision would have to"),
        ("method=lora checkpointing=offload measure=true backbone=minilm", "checkpointing=offload moves what a GPU"),
        ("method=lora method.reversal=on", "method.reversal: Invalid value 'on', expected one of [off, exact"),
        (
            "batch=1000000000 method=[lora,meft1] method.reversal=stored",
            "125000000 chunks, are too many to predict. Take a smaller batch",
        ),
        ("backbone=minilm method=lora batch=1000000 measure=true", "measure=true: a step needs"),
        ("backbone=minilm backbone.config.hidden_sise=8", "minilm has no such size, did you mean 'hidden_size'"),
        ("backbone=minilm backbone.config.hidden_size=7", "minilm cannot be made with these sizes (The hidden size"),
        ("backbone=minilm backbone.config.hidden_size=abc", "minilm cannot be made with these sizes (Validation"),
        ("backbone=minilm backbone.config.num_hidden_layers=0", "num_hidden_layers=0: expected 1 to"),
        ("backbone=minilm backbone.config.num_hidden_layers=1000000", "1000000 layers, each computed in 1 chunks"),
        ("backbone=minilm backbone.config.hidden_act=foo", "minilm cannot be made with these sizes ('foo')"),
        ("backbone=vit backbone.config.patch_size=999", "vit makes no patch of images of 224 pixels"),
        ("backbone=bert backbone.path=/nowhere", "backbone.path=/nowhere: no config.json there"),
        ("backbone=minilm sweep=batch output_dir=/dev/null/x", "output_dir=/dev/null/x: figures cannot be written"),
    ],
)
@pytest.mark.thin(6)
def test_mistakes(monkeypatch, capsys, arguments, message):
    code, _, error = call(monkeypatch, capsys, cli.meft_memory, *arguments.split(" "))
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) <= 2


def test_any_batch_is_predicted_where_no_graph_of_every_chunk_is_kept(monkeypatch, capsys):
    code, out, _ = call(
        monkeypatch, capsys, cli.meft_memory, *SMALL[::2], "method=[full,lora,meft1]", "batch=1000000000", "format=json"
    )
    assert code == 0
    assert all(row["activations_bytes"] > 10**14 for row in json.loads(out))


def test_a_folder_of_another_architecture(monkeypatch, capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    code, _, error = call(monkeypatch, capsys, cli.meft_memory, "backbone=opt_125m", f"backbone.path={tmp_path}")
    assert code == 2
    assert f"backbone.path={tmp_path}: holds a gpt2 model, backbone=opt_125m expects opt" in error


def test_a_folder_whose_sizes_do_not_fit(monkeypatch, capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "opt", "hidden_size": 10, "num_attention_heads": 3}')
    code, _, error = call(monkeypatch, capsys, cli.meft_memory, "backbone=opt_125m", f"backbone.path={tmp_path}")
    assert code == 2
    (line,) = error.strip().splitlines()
    assert line.startswith(f"error: backbone.path={tmp_path}: ")


@pytest.mark.parametrize(("option", "expected"), [("--help", "fit=24GiB"), ("-h", "fit=24GiB"), ("--version", "meft-")])
def test_what_explains_itself(monkeypatch, capsys, option, expected):
    code, out, _ = call(monkeypatch, capsys, cli.meft_memory, option)
    assert code in (0, None)
    assert expected in out
