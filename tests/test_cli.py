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
        (["task=rte"], "task=rte: nyu-mll/glue: HF_HUB_OFFLINE is set, and the cache does not hold all of it"),
        (["backbone=roberta"], "backbone=roberta: FacebookAI/roberta-large: HF_HUB_OFFLINE is set"),
        (["method.frozen_layers=6"], "method.frozen_layers=6: minilm has 6 layers"),
        (["task.max_length=600"], "task.max_length=600: minilm reads at most 512 tokens"),
        (["training.precision=fp16"], "training.precision=fp16: needs a GPU"),
        (["method=lora", "method.checkpointing=offload"], "this machine has no GPU. Take method.checkpointing=true"),
        (["task=rte", "task.metrics=[acuracy]"], "'acuracy' does not score classes, did you mean 'accuracy'"),
    ],
)
@pytest.mark.thin(2)
def test_mistakes_found_in_a_run_leave_a_record(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
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
    assert line.startswith(f"error: tables_dir={tmp_path}/file: ")
    assert "cannot be written (File exists)" in line


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


@pytest.mark.parametrize("entry", [cli.meft_run, cli.meft_memory, cli.meft_tables, cli.meft_predict])
def test_the_version_is_the_programs_own(entry, monkeypatch, capsys):
    code, printed, _ = call(monkeypatch, capsys, entry, "--version")
    assert (code, printed) == (0, f"meft-runner {__version__}\n")
