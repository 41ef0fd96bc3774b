import json
from dataclasses import fields
from pathlib import Path

import pytest
from pydantic import ValidationError

from meft_runner.config import plain
from meft_runner.errors import UserError
from meft_runner.memory import StepMemory
from meft_runner.records.memory import Memory
from meft_runner.records.record import completed, finish, new_record, read_record, write_record
from meft_runner.records.schema import CompleteRecord, Record
from tests.helpers import records as made
from tests.helpers.composed import settings


@pytest.fixture
def record():
    return new_record("abc", plain(settings("method=lora")), "cpu")


def test_a_record_reads_back(record, tmp_path):
    write_record(record, tmp_path / "run")
    assert read_record(tmp_path / "run") == record
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["record.json"]


def test_a_complete_record_reads_back_as_one(tmp_path):
    complete = made.record(history=[(0.5, None)])
    write_record(complete, tmp_path)
    found = read_record(tmp_path)
    assert isinstance(found, CompleteRecord)
    assert found == complete
    assert found.scores.history[0].metrics == {"accuracy": None}


def test_the_contract_of_a_new_record(record):
    assert list(record.plain()) == [
        "schema_version", "identity", "status", "error", "started", "finished", "config", "method_version",
        "environment", "data", "scores", "parameters", "start", "memory", "timing", "reversal", "gradients", "weights",
    ]  # fmt: skip
    assert record.status == "running"
    finish(record, "failed", "why")
    assert (record.status, record.error) == ("failed", "why")
    assert record.finished >= record.started


def test_all_settings_are_kept_and_none_is_added(record):
    assert record.config.plain() == plain(settings("method=lora"))


def test_the_columns_of_memory_are_those_that_are_measured():
    assert list(Memory.model_fields) == [
        "source", *[field.name for field in fields(StepMemory)], "batch_size", "length",
    ]  # fmt: skip


def test_a_record_that_lacks_results_is_not_complete(record):
    finish(record, "complete")
    with pytest.raises(ValidationError, match="parameters"):
        completed(record)


def test_the_environment_names_versions_and_commit(record):
    environment = record.environment
    assert environment.packages["torch"]
    assert environment.device == "cpu"
    assert environment.git is None or len(environment.git.commit) == 40


def test_an_old_record_survives_a_failed_write(record, tmp_path):
    write_record(record, tmp_path)
    broken = record.model_copy()
    broken.config.training.warmup = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_record(broken, tmp_path)
    broken.config.training.warmup = 0.06
    assert read_record(tmp_path) == record


def test_a_folder_that_cannot_be_written(record, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"output_dir=.* cannot be written there"):
        write_record(record, tmp_path / "file" / "run")


def test_no_record(tmp_path):
    assert read_record(Path("/nowhere")) is None
    (tmp_path / "file").write_text("")
    assert read_record(tmp_path / "file") is None


def test_a_record_of_the_first_version_is_read(tmp_path):
    old = made.record().plain()
    for part in ("start", "gradients", "weights"):
        del old[part]
    (tmp_path / "record.json").write_text(json.dumps(old | {"data": {"source": "hub", "synthetic": False}}))
    found = read_record(tmp_path)
    assert (found.start, found.gradients, found.weights, found.data.kind) == (None, None, None, None)


def test_a_damaged_record_names_the_folder_to_remove(tmp_path):
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(UserError) as raised:
        read_record(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path}/record.json: not a run record of this program (Expecting property")
    assert str(raised.value).endswith(f"Remove the folder {tmp_path} to run it again, or restore the file.")


def test_gradients_need_the_reversal_they_are_of():
    with pytest.raises(ValidationError, match="gradients without reversal"):
        Record.model_validate(made.study([0.1]).plain() | {"reversal": None})
