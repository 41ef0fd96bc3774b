"""What the trackers wrote, read back from their own files."""

import json
import os
import struct
import subprocess
import sys
from dataclasses import fields
from importlib import metadata

import pytest
from datasets import Dataset
from transformers import TrainerCallback, default_data_collator

from meft_runner.config import Head, Logger, plain
from meft_runner.errors import UserError
from meft_runner.memory import StepMemory
from meft_runner.records.record import new_record
from meft_runner.records.schema import Record
from meft_runner.run import processes
from meft_runner.run.results import scores_of
from meft_runner.run.trackers import flat, summary, tracking
from meft_runner.tasks import EvalSplit, TaskData
from tests.helpers import records
from tests.helpers.composed import settings
from tests.helpers.models import batch, meft_settings, prepared
from tests.helpers.training import make_trainer

pytest.importorskip("wandb")
pytest.importorskip("tensorboard")

import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from wandb.proto.wandb_internal_pb2 import Record as WandbRecord

SECRET = "a1b2c3d4" * 5
SIZES = [field.name for field in fields(StepMemory)]
RESULTS = {
    "parameters": {"total": 9000, "trainable": 300},
    "memory": {"source": "tracked", **dict.fromkeys(SIZES, 4096), "batch_size": 8, "length": 24},
    "timing": {"median_step_seconds": 0.25, "tokens_per_second": None, "train_seconds": 1.0},
    "reversal": {"mode": "exact", "checked_steps": 4, "mismatches": 0, "max_error": None},
}


@pytest.fixture(autouse=True)
def session(tmp_path, monkeypatch):
    """A wandb session of its own: offline, with a key that must not get into any file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()
    yield
    wandb.teardown()


class Stop(TrainerCallback):
    def on_save(self, *args, **kwargs):
        raise KeyboardInterrupt


def task():
    inputs = batch(rows=16, padding=None)
    rows = Dataset.from_dict({name: tensor.tolist() for name, tensor in inputs.items()})
    split = EvalSplit(rows, lambda answers: {"accuracy": (answers.predictions.argmax(-1) == answers.label_ids).mean()})
    splits = {"validation_matched": split, "validation_mismatched": split}
    return TaskData(Head.classification, (), rows, splits, "accuracy", default_data_collator, {})


def train(logger, directory, *more, resume=None):
    """Trains two epochs of two steps with a real Trainer; returns its log and the record."""
    data = task()
    chosen = settings("training.epochs=2", "training.batch_size=8", "training.group_by_length=false")
    record = new_record("abcdef1234", plain(chosen), "cpu")
    with tracking(Logger[logger], directory, record) as tracker:
        callbacks = [*tracker(data.evaluation), *more]
        model = prepared(meft_settings(), dropout=0.0)
        trainer = make_trainer(chosen, model, data, directory, data.collate, callbacks)
        trainer.train(resume_from_checkpoint=resume)
        results = Record.model_validate(record.plain() | RESULTS)
        for part in RESULTS:
            setattr(record, part, getattr(results, part))
        record.scores = scores_of(trainer.state.log_history, data)
    return trainer.state.log_history, record


def wandb_records(path):
    """The records of a .wandb file: LevelDB's log format, blocks of 32 KiB behind a header of 7 bytes."""
    content, position, whole = path.read_bytes(), 7, b""
    while position + 7 < len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        whole += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield WandbRecord.FromString(whole)
            whole = b""


def all_wandb_records(directory):
    wandb.teardown()  # its service may still be writing
    return [r for path in sorted(directory.glob("wandb/offline-run-*/*.wandb")) for r in wandb_records(path)]


def read_wandb(directory):
    config, curves, results = {}, {}, {}
    for record in all_wandb_records(directory):
        config |= {item.key: json.loads(item.value_json) for item in record.config.update}
        results |= {item.key: json.loads(item.value_json) for item in record.summary.update if item.key}
        for item in record.history.item:
            curves.setdefault(item.nested_key[0], []).append((record.history.step.num, json.loads(item.value_json)))
    return [{name: what for name, what in part.items() if name[0] != "_"} for part in (config, curves, results)]


def read_tensorboard(directory):
    events = EventAccumulator(str(directory / "tensorboard")).Reload()
    curves = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    plugin = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = HParamsPluginData.FromString(plugin).session_start_info.hparams
    config = {name: getattr(value, value.WhichOneof("kind")) for name, value in hparams.items()}
    for name in ("method.strict", "method.offload", "method.zero_start", "training.group_by_length", "retry_failed"):
        config[name] = bool(config[name])  # numbers there
    results = {name: curves.pop(name) for name in list(curves) if not name.startswith(("train/", "eval/"))}
    assert {points[0][0] for points in results.values()} == {4}  # the last step
    return config, curves, {name: value for name, ((_, value),) in results.items()}


READERS = {"wandb": read_wandb, "tensorboard": read_tensorboard}


def curves_of(log):
    """The curves that a Trainer's log describes, written out."""
    names = {
        "loss": "train/loss",
        "learning_rate": "train/learning_rate",
        "grad_norm": "train/gradient_norm",
        "eval_validation_matched_loss": "eval/loss",
        "eval_validation_matched_accuracy": "eval/accuracy",
        "eval_validation_mismatched_loss": "eval/loss_mismatched",
        "eval_validation_mismatched_accuracy": "eval/accuracy_mismatched",
    }
    return {name: [(e["step"], pytest.approx(e[key])) for e in log if key in e] for key, name in names.items()}


@pytest.mark.parametrize("logger", READERS)
@pytest.mark.slow
def test_what_was_tracked_is_read_back(logger, tmp_path):
    log, record = train(logger, tmp_path / "run")
    config, curves, results = READERS[logger](tmp_path / "run")
    assert curves == curves_of(log)
    assert [step for step, _ in curves["eval/accuracy_mismatched"]] == [2, 4]
    assert config == (record.config.plain() if logger == "wandb" else pytest.approx(flat(record.config.plain())))
    assert results == {
        "scores/best": pytest.approx(record.scores.best),
        "scores/final": pytest.approx(record.scores.final),
        "parameters/trainable": 300,
        "parameters/total": 9000,
        **{f"memory/{name}": 4096 for name in SIZES},
        "timing/median_step_seconds": 0.25,
        "reversal/mismatches": 0,
        "reversal/checked_steps": 4,
    }


@pytest.mark.parametrize("logger", READERS)
def test_a_resumed_run_goes_on_in_the_same_place(logger, tmp_path):
    directory = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(logger, directory, Stop())
    log, record = train(logger, directory, resume=str(directory / "checkpoint-2"))
    _, curves, results = READERS[logger](directory)
    assert curves == curves_of(log)
    assert results == pytest.approx(summary(record))
    if logger == "wandb":
        records = all_wandb_records(directory)
        assert [r.run.run_id for r in records if r.HasField("run")] == ["abcdef1234"] * 2
        assert [r.exit.exit_code for r in records if r.HasField("exit")] == [1, 0]


@pytest.mark.parametrize("logger", READERS)
def test_nothing_of_the_machine_is_written(logger, tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    with tracking(Logger[logger], directory, new_record("abcdef1234", plain(settings()), "cpu")):
        print("printed")
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert {path.relative_to(directory).parts[0] for path in files} == {logger}
    assert not any(SECRET.encode() in path.read_bytes() for path in files)
    if logger == "wandb":
        records = all_wandb_records(directory)
        kinds = {record.WhichOneof("record_type") for record in records}
        assert kinds <= {"header", "run", "config", "telemetry", "summary", "history", "exit"}
        (run,) = [record.run for record in records if record.HasField("run")]
        assert (run.host, run.HasField("git"), run.project, run.display_name) == ("", False, "meft-runner", "run")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, r"logger=wandb: not logged in\. Run wandb login, or set WANDB_MODE=offline\."),
        ({"WANDB_MODE": "sometimes"}, r"logger=wandb: .*Input should be 'online', 'offline'"),
        ({"WANDB_API_KEY": "short"}, r"logger=wandb: WANDB_API_KEY invalid: .* set WANDB_MODE=offline\."),
    ],
)
def test_wandb_that_cannot_be_used_is_said_in_one_line(environment, message, tmp_path, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    wandb.teardown()
    with (
        pytest.raises(UserError, match=message) as caught,
        tracking(Logger.wandb, tmp_path, new_record("a", plain(settings()), "cpu")),
    ):
        pytest.fail("began")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_wandb_server_that_is_away_ends_the_command_in_one_line(tmp_path):
    away = {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_HTTP_TIMEOUT": "1"}
    command = [sys.executable, "-m", "meft_runner", "logger=wandb", f"output_dir={tmp_path / 'runs'}"]
    done = subprocess.run(
        command, env=os.environ | away, capture_output=True, text=True, timeout=120, check=False
    )  # a process of its own, since wandb's takes minutes to give up where nobody ends it
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: logger=wandb: Failed to authenticate with http://127.0.0.1:9")
    assert SECRET not in line


@pytest.mark.parametrize("logger", READERS)
def test_a_missing_package_is_named(logger, tmp_path, monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    message = rf"logger={logger}: not installed\. pip install meft-runner\[{logger}\]\."
    with pytest.raises(UserError, match=message), tracking(Logger[logger], tmp_path, records.record()):
        pytest.fail("began")


@pytest.mark.parametrize("logger", ["none", *READERS])
def test_only_the_main_process_tracks_and_only_with_a_logger(logger, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "is_main", lambda: logger == "none")
    with tracking(Logger[logger], tmp_path, records.record()) as tracker:
        assert tracker(["validation"]) == []
    assert not list(tmp_path.iterdir())


def test_a_record_without_results_has_an_empty_summary():
    assert summary(new_record("a", plain(settings()), "cpu")) == {}
