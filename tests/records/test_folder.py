"""Records of a folder, as meft-tables reads them: what cannot be read is told in one line and left out."""

import errno
import json
import os
import re
from pathlib import Path

import pytest

from meft_runner.errors import UserError
from meft_runner.records.record import folder_name, read_folder, write_record
from tests.helpers import records as made


def test_records_of_a_folder(tmp_path):
    write_record(made.changed(made.record(), status="failed"), tmp_path / "c")
    write_record(made.changed(made.record(), status="running"), tmp_path / "d")
    with pytest.raises(UserError, match="none of its 2 runs is complete"):
        read_folder(tmp_path)
    for name in ("b", "a"):
        write_record(made.changed(made.record(), identity=name), tmp_path / name)
    (tmp_path / "multirun.yaml").write_text(json.dumps({}))
    assert [found.identity for found in read_folder(tmp_path)] == ["a", "b"]


def test_a_folder_of_records_that_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"output_dir=.*file: cannot be read \(Not a directory\)"):
        read_folder(tmp_path / "file")
    with pytest.raises(UserError, match=r"output_dir=.*none: no such folder"):
        read_folder(tmp_path / "none")


def skipped(tmp_path, capsys):
    """Returns the one line that tells what was left out beside a good record."""
    write_record(made.record(), tmp_path / "good")
    assert len(read_folder(tmp_path)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema_version": 1, "status": "comp', "(Unterminated string"),
        ('{"schema_version": 9, "status": "complete", "error": null, "config": {}}', "(schema version 9, this"),
        ('{"name": "another project"}', "(schema_version: Field required"),
        ("[]", "(not an object)"),
        (b"\xff\xfe\x00", "can't decode byte 0xff"),
        ("[" * 100_000, "(nested too deep)"),
        ('{"a": ' * 300 + "1" + "}" * 300, "recursion limit exceeded"),
        ('{"a": NaN}', "(NaN is no number of JSON)"),
        ('{"a": -Infinity}', "(-Infinity is no number of JSON)"),
        ('{"a": 1e400}', "(1e400 is too large a number)"),
        ('{"a": ' + "9" * 5000 + "}", "Exceeds the limit"),
        ('{"a": 1, "a\\n": 3, "a\\n": 2}', "(a? is there twice)"),
        ('{"a": "\\ud800"}', "unexpected end of hex escape"),
    ],
)
def test_files_that_are_no_records_are_told_and_left_out(content, message, tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "record.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    line = skipped(tmp_path, capsys)
    assert line.startswith(f"skipped: {tmp_path / 'bad' / 'record.json'}: not a run record of this program (")
    assert message in line


def make_pipe(path):
    os.mkfifo(path)


def make_loop(path):
    path.symlink_to(path)


def make_huge(path):
    with path.open("wb") as file:
        file.truncate(2**23)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.mkdir, "(not a regular file)"),
        (make_pipe, "(not a regular file)"),
        (make_loop, "(Too many levels of symbolic links)"),
        (make_huge, "(larger than 4 MiB)"),
        (Path.touch, "(Expecting value"),
    ],
)
def test_what_is_no_file_is_told_and_left_out(make, message, tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    make(tmp_path / "bad" / "record.json")
    line = skipped(tmp_path, capsys)
    assert line.startswith(f"skipped: {tmp_path / 'bad' / 'record.json'}: not a run record of this program {message}")


def test_a_file_without_permission_is_told_and_left_out(tmp_path, capsys, monkeypatch):
    write_record(made.record(), tmp_path / "bad")
    read_text = Path.read_text

    def refusing(self, *args, **kwargs):
        if self.parent.name == "bad":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return read_text(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refusing)  # the tests may run as root, whom nothing is forbidden
    assert "(Permission denied)" in skipped(tmp_path, capsys)


def test_more_epochs_than_a_table_holds(tmp_path, capsys):
    write_record(made.record(history=[(0.5, 0.5)] * 10_001), tmp_path / "bad")
    assert "scores.history has more than 10000 epochs" in skipped(tmp_path, capsys)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("status", "finished"),
        *[("scores", value) for value in ({}, [], "high")],
        *[("scores.best", value) for value in ("0.5", True, 7, 10**400)],
        *[("scores.history", value) for value in (None, [1], [{"step": 1}], [{"epoch": 1, "accuracy": "high"}])],
        *[("data", value) for value in (None, {})],
        *[("parameters", value) for value in (None, {"total": 0, "trainable": 0}, {"total": 5})],
        *[("memory", value) for value in ({}, "much")],
        *[("memory.peak_bytes", value) for value in (-1, 2**63, 1.5)],
        ("timing", "long"),
        *[("environment", value) for value in (None, {}, {"packages": []})],
        *[("finished", value) for value in (None, "yesterday", "2025-13-01T00:00:00")],
        *[("config.training", value) for value in (None, {}, {"learning_rate": 1})],
        ("config.training.learning_rate", -1e-3),
        ("config.seed", "one"),
        *[("config.method.name", value) for value in (["meft1"], "adapters")],
        ("config.backbone", {"name": "bert"}),
        ("config.backbone.name", "two\nlines"),
        *[("gradients", value) for value in ([1], [{"layer": "a"}])],
    ],
)
def test_a_record_with_other_contents_is_told_and_left_out(part, value, tmp_path, capsys):
    content = made.record().plain()
    *parents, last = part.split(".")
    owner = content
    for name in parents:
        owner = owner[name]
    owner[last] = value
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "record.json").write_text(json.dumps(content))
    line = skipped(tmp_path, capsys)
    assert re.search(rf"bad.record.json: not a run record of this program \({part}[.:]", line)


def test_a_copy_of_a_run_is_told_and_left_out(tmp_path, capsys):
    record = made.record()
    for name in ("run", "run (copy)"):
        write_record(record, tmp_path / name)
    assert len(read_folder(tmp_path)) == 1
    assert "run (copy)/record.json: another folder of run x" in capsys.readouterr().err


def test_a_run_in_the_folder_of_its_name_counts_and_not_one_beside_it(tmp_path, capsys):
    new = made.record(0.75)
    name = folder_name(new.config, new.identity)
    for folder, best in (("1st try", 0.25), (f"an-old-{name}", 0.5), (name, 0.75), ("z", 0.5)):
        write_record(made.changed(new, scores=made.record(best).scores.plain()), tmp_path / folder)
    (found,) = read_folder(tmp_path)
    assert found.scores.best == 0.75
    told = capsys.readouterr().err.splitlines()
    assert [line.endswith(f"another folder of run {new.identity}, as {name} is.") for line in told] == [True] * 3
