"""What becomes of a command's errors, and of a standard output that breaks."""

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from meft_runner.config import identity
from meft_runner.errors import UserError
from meft_runner.records.record import write_record
from meft_runner.run.command import guarded, report_error, run_one
from meft_runner.run.folder import run_directory
from meft_runner.run.output import LastingOutput
from meft_runner.sweeps.asked import read_arguments
from tests.helpers import records as made
from tests.helpers.composed import settings

TABLES = [sys.executable, "-c", "from meft_runner.cli import meft_tables; meft_tables()"]


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (UserError("seed=x: expected a number."), 2, ["error: seed=x: expected a number."]),
        (FileNotFoundError(2, "No such file or directory", "rows.csv"), 2, None),
        (
            KeyboardInterrupt(),
            1,
            ["interrupted: the same command goes on from the last checkpoint, if there is one yet."],
        ),
    ],
)
def test_the_exit_code_says_whose_error_it_is(error, code, lines, capsys):
    assert guarded(raising(error)) == code
    found = capsys.readouterr().err.splitlines()
    assert len(found) == 1
    assert lines is None or found == lines


def test_our_own_error_keeps_its_traceback_and_says_so(capsys):
    assert report_error(KeyError("x")) == (1, "KeyError: 'x'")
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.startswith("this is an error of meft-runner's own; please report it")
    assert rest[-1] == "KeyError: 'x'"


@pytest.fixture
def runs(tmp_path):
    for number in range(3):
        write_record(made.record(), tmp_path / "runs" / str(number))
    return f"output_dir={tmp_path / 'runs'}"


@pytest.mark.slow
def test_a_reader_that_has_gone_stops_no_command(runs, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [*TABLES, runs, f"tables_dir={tmp_path / 'tables'}"]
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(writer)
    assert (result.returncode, result.stderr) == (1, "")
    assert (tmp_path / "tables" / "scores.md").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.slow
def test_a_full_standard_output_is_one_line(runs, tmp_path):
    with open("/dev/full", "w") as full:
        command = [*TABLES, runs, f"tables_dir={tmp_path / 'tables'}"]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert result.returncode == 2
    assert result.stderr == (
        "error: standard output: cannot be written (No space left on device). "
        "Send it elsewhere; files are as they should be.\n"
    )
    assert (tmp_path / "tables" / "scores.md").is_file()


def test_a_complete_run_is_shown_at_once_with_what_may_be_typed_next(tmp_path, monkeypatch, capsys):
    chosen = settings(f"output_dir={tmp_path}")
    write_record(made.changed(made.record(0.625), identity=identity(chosen)), run_directory(chosen))
    monkeypatch.setitem(sys.modules, "meft_runner.run.lifecycle", None)  # nothing trains
    run_one(chosen, in_sweep=False)
    printed = capsys.readouterr().out
    assert "is complete already" in printed
    assert "62.5" in printed
    assert f"meft-tables output_dir={tmp_path}" in printed
    run_one(chosen, in_sweep=True)
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("name", ["runs", "a,b", "c (1)", "it's"])
def test_what_may_be_typed_next_names_the_folder_as_it_is(name, tmp_path, capsys):
    chosen = settings()
    chosen.output_dir = str(tmp_path / name)
    write_record(made.changed(made.record(), identity=identity(chosen)), run_directory(chosen))
    run_one(chosen, in_sweep=False)
    tables, seeds = (shlex.split(line.partition(":")[2]) for line in capsys.readouterr().out.splitlines()[-2:])
    assert tables == ["meft-tables", f"output_dir={chosen.output_dir}"]
    assert seeds[:2] == ["meft-run", "-m"]
    values = {each.key_or_group: each.value() for each in read_arguments(seeds[1:]).overrides}
    assert getattr(values["output_dir"], "text", values["output_dir"]) == chosen.output_dir
    assert "'" not in seeds[-1] or name != "runs"


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
@pytest.mark.slow
def test_a_closed_standard_output_stops_no_command(closed, runs, tmp_path):
    command = ["bash", "-c", '"$@" ' + " ".join(f"{number}>&-" for number in closed), "-", *TABLES]
    result = subprocess.run([*command, runs, f"tables_dir={tmp_path / 'tables'}"], timeout=120, check=False)
    assert result.returncode == 0
    assert (tmp_path / "tables" / "scores.md").is_file()


def test_characters_that_standard_output_has_not_are_printed_by_their_numbers():
    printed = io.TextIOWrapper(io.BytesIO(), "ascii")
    output = LastingOutput(printed)
    assert output.write("schl\xe9cht") == 8
    output.flush()
    assert printed.buffer.getvalue() == rb"schl\xe9cht"
