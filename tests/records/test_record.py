import json
import re
from pathlib import Path

import pytest

from meft_runner.errors import UserError
from meft_runner.records.record import finish, new_record, read_folder, read_record, write_record
from tests.helpers import records as made


@pytest.fixture
def record():
    return new_record("abc", {"seed": 1}, "cpu")


def test_a_record_reads_back(record, tmp_path):
    write_record(record, tmp_path / "run")
    assert read_record(tmp_path / "run") == record
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["record.json"]


def test_the_contract_of_a_new_record(record):
    assert list(record) == [
        "schema_version", "identity", "status", "error", "started", "finished", "config", "environment", "data",
        "scores", "parameters", "start", "memory", "timing", "reversal", "gradients",
    ]  # fmt: skip
    assert record["status"] == "running"
    finish(record, "failed", "why")
    assert (record["status"], record["error"]) == ("failed", "why")
    assert record["finished"] >= record["started"]


def test_the_environment_names_versions_and_commit(record):
    environment = record["environment"]
    assert environment["packages"]["torch"]
    assert environment["device"] == "cpu"
    assert environment["git"] is None or set(environment["git"]) == {"commit", "dirty"}


def test_an_old_record_survives_a_failed_write(record, tmp_path):
    write_record(record, tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_record(record | {"scores": float("nan")}, tmp_path)
    assert read_record(tmp_path) == record


def test_a_folder_that_cannot_be_written(record, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"output_dir=.* cannot be written there"):
        write_record(record, tmp_path / "file" / "run")


def test_no_record():
    assert read_record(Path("/nowhere")) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a run record"),
        ("[]", "not a run record"),
        ('{"schema_version": 9, "status": "", "error": null, "config": {}}', "version 9"),
        ('{"schema_version": 1}', "not a run"),
    ],
)
def test_files_that_are_no_records(content, message, tmp_path):
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_record(tmp_path)


def test_records_of_a_folder(tmp_path):
    write_record(made.record() | {"status": "failed"}, tmp_path / "c")
    write_record(made.record() | {"status": "running"}, tmp_path / "d")
    with pytest.raises(UserError, match="none of its 2 runs is complete"):
        read_folder(tmp_path)
    for name in ("b", "a"):
        write_record(made.record() | {"identity": name}, tmp_path / name)
    (tmp_path / "multirun.yaml").write_text(json.dumps({}))
    assert [found["identity"] for found in read_folder(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema_version": 1, "status": "comp', "not a run record"),
        ('{"schema_version": 9, "status": "complete", "error": null, "config": {}}', "schema version 9"),
        (
            '{"schema_version": 1, "status": "complete", "error": null, "config": {}}',
            "this program (config.backbone",
        ),
        ('{"schema_version": 1, "status": "complete", "error": null, "config": [1]}', "this program (config: "),
        ('{"name": "another project"}', "not a run record"),
        (b"\xff\xfe\x00", "not a run record"),
    ],
)
def test_files_that_are_no_records_are_told_and_left_out(content, message, tmp_path, capsys):
    write_record(made.record(), tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "record.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert len(read_folder(tmp_path)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"skipped: {tmp_path / 'bad' / 'record.json'}: ")
    assert message in line


@pytest.mark.parametrize(
    ("part", "value"),
    [
        *[("scores", value) for value in ({}, [], "high")],
        *[("scores.best", value) for value in ("0.5", None, True, float("nan"))],
        *[("scores.history", value) for value in (None, [1], [{"step": 1}], [{"epoch": 1, "accuracy": "high"}])],
        *[("data", value) for value in (None, {})],
        *[("parameters", value) for value in (None, {"total": 0, "trainable": 0}, {"total": 5})],
        *[("memory", value) for value in ({}, "much")],
        ("timing", "long"),
        *[("environment", value) for value in (None, {}, {"packages": []})],
        ("finished", None),
        *[("config.training", value) for value in (None, {}, {"learning_rate": 1})],
        ("config.seed", "one"),
        ("config.method.name", ["meft1"]),
        ("config.backbone", {"name": "bert"}),
        *[("gradients", value) for value in ([1], [{"layer": "a"}])],
    ],
)
def test_a_record_with_other_contents_is_told_and_left_out(part, value, tmp_path, capsys):
    record = made.record()
    *parents, last = part.split(".")
    owner = record
    for name in parents:
        owner = owner[name]
    owner[last] = value
    for name, content in (("good", made.record()), ("bad", record)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(json.dumps(content))
    assert len(read_folder(tmp_path)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(rf"bad.record.json: not a run record of this program \({part}[.:]", line)


def test_a_copy_of_a_run_is_told_and_left_out(tmp_path, capsys):
    record = made.record()
    for name in ("run", "run (copy)"):
        write_record(record, tmp_path / name)
    assert len(read_folder(tmp_path)) == 1
    assert "run (copy)/record.json: a copy of another folder's run x" in capsys.readouterr().err


def test_gradients_need_the_reversal_they_are_of(tmp_path, capsys):
    write_record(made.study([0.1]) | {"reversal": None}, tmp_path / "bad")
    with pytest.raises(UserError, match="none of its 1 runs is complete"):
        read_folder(tmp_path)
    assert "gradients without reversal" in capsys.readouterr().err
