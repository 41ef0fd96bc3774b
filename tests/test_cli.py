"""The commands as a user types them: exit codes, and errors of one or two lines."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meft_runner import __version__, cli
from meft_runner.config.directory import config_directory
from meft_runner.records.record import write_record
from tests.helpers import records as made
from tests.helpers.commands import call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["backbone=robrta"], "backbone=robrta: there is no such backbone, did you mean 'roberta'?"),
        (["task=rt"], "task=rt: there is no such task, did you mean 'rte'?"),
        (["method=meft4"], "method=meft4: there is no such method, did you mean 'meft"),
        (["method.adpater_dim=4"], "method.adpater_dim: no such setting, did you mean 'adapter_dim'?"),
        (["training.bach_size=4"], "training.bach_size: no such setting, did you mean 'batch_size'?"),
        (["trainig.epochs=4"], "trainig: no such setting, did you mean 'training'?"),
        (["method.adapter_dim=abc"], "method.adapter_dim: Value 'abc' of type 'str' could not be converted to Integer"),
        (["training.precision=fp17"], "training.precision: Invalid value 'fp17', expected one of [fp32, bf16, fp16]"),
        (
            ["method.reversal=exactly"],
            "method.reversal: Invalid value 'exactly', expected one of [exact, float, stored]",
        ),
        (["method.scale_1=0.3"], "method.scale_1=0.3: reversal=exact"),
        (
            ["method.checkpointing=true"],
            "method.checkpointing: method=meft1 has no such setting (full, lora, ia3 have)",
        ),
        (["method=full", "method.reversal=exact"], "method.reversal: method=full has no such setting (meft1, meft2,"),
        (["a b"], "cannot be read as key=value"),
        (["method._target_=os.system"], "method._target_=os.system: no such setting"),
    ],
)
def test_mistakes_in_settings(monkeypatch, capsys, arguments, message):
    code, _, error = call(monkeypatch, capsys, cli.meft_run, *arguments)
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) <= 2


def test_a_sweep_over_methods_takes_settings_that_the_default_method_lacks(monkeypatch, capsys, tmp_path):
    arguments = ["-m", "method=lora,ia3", "method.checkpointing=true", "task.max_length=600", f"output_dir={tmp_path}"]
    code, _, error = call(monkeypatch, capsys, cli.meft_run, *arguments)
    assert code == 2
    assert error.count("error: task.max_length=600: minilm reads at most 512") == 2  # both got as far as their data
    assert len(list(tmp_path.glob("minilm-demo-*/record.json"))) == 2


def test_an_output_folder_below_a_file(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    for flags in ([], ["-m"]):
        code, _, error = call(monkeypatch, capsys, cli.meft_run, *flags, "seed=1", f"output_dir={tmp_path}/file/runs")
        assert code == 2
        assert "Not a directory" in error


def failing_record(folder):
    (path,) = folder.glob("*/record.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["task=rte", "task.data_dir=/nowhere"], "task.data_dir=/nowhere: no such folder"),
        (["backbone=bert", "backbone.path=/nowhere"], "backbone.path=/nowhere: no such folder"),
        (["task=rte"], "nyu-mll/glue is neither cached nor reachable"),
        (["backbone=roberta"], "FacebookAI/roberta-large (tokenizer) is neither cached nor reachable"),
        (["method.frozen_layers=6"], "method.frozen_layers=6: minilm has 6 layers"),
        (["task.max_length=600"], "task.max_length=600: minilm reads at most 512 tokens"),
        (["training.precision=fp16"], "training.precision=fp16: needs a GPU"),
        (["task=rte", "task.metrics=[acuracy]"], "'acuracy' does not score classes, did you mean 'accuracy'"),
    ],
)
def test_mistakes_found_in_a_run_leave_a_record(monkeypatch, capsys, tmp_path, arguments, message):
    code, _, error = call(monkeypatch, capsys, cli.meft_run, *arguments, f"output_dir={tmp_path}")
    assert code == 2
    assert message in error
    record = failing_record(tmp_path)
    assert record["status"] == "failed"
    assert message in record["error"]


def test_a_bad_run_of_a_sweep_leaves_the_others(monkeypatch, capsys, tmp_path):
    code, _, error = call(monkeypatch, capsys, cli.meft_run, "-m", "method.frozen_layers=6,7", f"output_dir={tmp_path}")
    assert code == 2
    assert error.count("error: method.frozen_layers") == 2
    assert len(list(tmp_path.glob("*/record.json"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["output_dir=/nowhere"], "output_dir=/nowhere: no such folder"),
        (["outputdir=a"], "outputdir: no such setting, did you mean 'output_dir'?"),
        (["a"], "a: expected key=value"),
        (["report=yes"], "report=yes: expected true or false"),
    ],
)
def test_mistakes_in_the_arguments_of_the_tables(monkeypatch, capsys, arguments, message):
    code, _, error = call(monkeypatch, capsys, cli.meft_tables, *arguments)
    assert code == 2
    assert message in error


def test_a_report_has_a_folder_of_its_own(monkeypatch, capsys, tmp_path):
    write_record(made.record(), tmp_path / "runs" / "one")
    monkeypatch.chdir(tmp_path)
    code, printed, error = call(monkeypatch, capsys, cli.meft_tables, "report=true")
    assert (code, error) == (0, "")
    assert "50.0" in printed
    assert (tmp_path / "tables" / "report.html").is_file()


def test_a_folder_of_tables_that_cannot_be_written(monkeypatch, capsys, tmp_path):
    write_record(made.record(), tmp_path / "runs" / "one")
    (tmp_path / "file").write_text("")
    arguments = [f"output_dir={tmp_path}/runs", f"tables_dir={tmp_path}/file"]
    code, _, error = call(monkeypatch, capsys, cli.meft_tables, *arguments)
    assert code == 2
    (line,) = error.splitlines()
    assert line.startswith(f"error: tables_dir={tmp_path}/file: cannot be written")


def test_help_is_quick_and_imports_nothing_heavy():
    script = (
        "import sys, meft_runner.cli as cli; sys.argv = ['meft-run', '--help']\n"
        "try: cli.meft_run()\n"
        "finally: print('heavy:', [m for m in ('torch', 'transformers', 'datasets', 'pandas') if m in sys.modules])"
    )
    started = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert "heavy: []" in result.stdout
    listed = set(re.findall(r"[\w]+", result.stdout))
    for group in ("backbone", "task", "method"):
        assert {path.stem for path in Path(config_directory(), group).glob("[!_]*.yaml")} <= listed
    assert time.perf_counter() - started < 20  # the goal is 2 s; a busy machine is no failure


@pytest.mark.parametrize("entry", [cli.meft_run, cli.meft_memory, cli.meft_tables])
def test_the_version_is_the_programs_own(entry, monkeypatch, capsys):
    code, printed, _ = call(monkeypatch, capsys, entry, "--version")
    assert (code, printed) == (0, f"meft-runner {__version__}\n")
