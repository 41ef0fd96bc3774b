"""SIGTERM in the middle of an epoch, and everything else that may stop a run."""

import json
import os
import resource
import signal
from contextlib import contextmanager

import pytest
from transformers import TrainerCallback

from meft_runner.errors import UserError
from meft_runner.run import interruption
from meft_runner.run import lifecycle as experiment
from meft_runner.run.folder import run_directory
from meft_runner.run.interruption import InterruptedRunError
from tests.helpers.composed import tiny
from tests.helpers.interrupted import SignalAt, run_with


@pytest.fixture(autouse=True)
def _not_stopped(monkeypatch):
    monkeypatch.setattr(interruption.Interruption, "stopped", False)  # and put back afterwards


def weights(chosen):
    return (run_directory(chosen) / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("method", "step", "number"),
    [
        ("meft1", 2, signal.SIGTERM),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in [("meft1", 4, signal.SIGINT), ("full", 6, signal.SIGTERM)]
        ),
    ],
)
def test_an_interrupted_run_ends_as_if_it_had_not_been(step, number, method, rte_folder, tmp_path, monkeypatch):
    overrides = ("training.epochs=2", f"method={method}")
    whole = tiny(rte_folder, tmp_path / "whole", *overrides)
    expected = experiment.run(whole)
    cut = tiny(rte_folder, tmp_path / "cut", *overrides)
    with pytest.raises(InterruptedRunError):
        run_with(SignalAt(step, number), cut, monkeypatch)
    directory = run_directory(cut)
    assert json.loads((directory / "record.json").read_text())["status"] == "running"
    assert (directory / f"checkpoint-{step + 1}").is_dir()
    found = experiment.run(cut)
    assert weights(cut) == weights(whole)
    assert found.reversal == expected.reversal
    assert found.timing.train_seconds > 0
    losses = [[epoch.train_loss for epoch in record.scores.history] for record in (expected, found)]
    for record in (expected, found):
        for epoch in record.scores.history:
            epoch.train_loss = None
    assert found.scores == expected.scores
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)  # summed in two parts where an epoch was cut


def test_a_run_that_had_stopped_early_is_not_trained_on(rte_folder, tmp_path, monkeypatch):
    overrides = ("training.epochs=4", "training.patience=1", "training.learning_rate=1e-9")
    whole, cut = (tiny(rte_folder, tmp_path / name, *overrides) for name in ("whole", "cut"))
    expected = experiment.run(whole)
    with pytest.raises(InterruptedRunError):
        run_with(SignalAt(9, signal.SIGTERM), cut, monkeypatch)  # in the last step of its last epoch
    found = experiment.run(cut)
    for record in (expected, found):
        for epoch in record.scores.history:
            epoch.train_loss = None
    assert found.scores == expected.scores
    assert found.reversal == expected.reversal
    assert [epoch.step for epoch in found.scores.history] == [5, 10]
    assert weights(cut) == weights(whole)


def test_a_second_signal_stops_at_once_unless_it_is_the_same(monkeypatch):
    earlier = signal.getsignal(signal.SIGTERM)
    watch, times = interruption.Interruption(), iter([10.0, 10.5, 12.0, 12.0])
    monkeypatch.setattr(interruption.time, "monotonic", lambda: next(times))
    with watch.watching():
        watch.on_train_begin(None, None, None)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # handed on by the sweep, of the same Ctrl-C
        with pytest.raises(InterruptedRunError):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is earlier


def test_a_signal_before_training_stops_at_once():
    watch = interruption.Interruption()
    with pytest.raises(InterruptedRunError), watch.watching():
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_clusters_signal_is_handed_on_after_the_checkpoint(rte_folder, tmp_path, monkeypatch):
    chosen, handed_on = tiny(rte_folder, tmp_path), []
    handler = signal.signal(signal.SIGUSR2, lambda number, frame: handed_on.append(number))
    try:
        with pytest.raises(InterruptedRunError):
            run_with(SignalAt(2, signal.SIGUSR2), chosen, monkeypatch)
    finally:
        signal.signal(signal.SIGUSR2, handler)
    assert handed_on == [signal.SIGUSR2]
    assert (run_directory(chosen) / "checkpoint-3").is_dir()


class FullDisk(TrainerCallback):
    """From some step on, no file may grow beyond 64 KiB, which is less than the model has."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 7:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, resource.RLIM_INFINITY))


@contextmanager
def a_full_disk():
    """A file may not grow beyond 16 KiB: SIGXFSZ, which would end the process, is ignored, and writing fails."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_at_the_end_of_a_run(rte_folder, tmp_path, monkeypatch):
    chosen = tiny(rte_folder, tmp_path, "training.max_steps=1")
    save = experiment.keep_adapter

    def save_on_a_full_disk(*args):
        with a_full_disk():
            save(*args)

    monkeypatch.setattr(experiment, "keep_adapter", save_on_a_full_disk)
    with pytest.raises(UserError, match="the adapter cannot be written there"):
        experiment.run(chosen)
    assert sorted(path.name for path in run_directory(chosen).iterdir()) == ["checkpoint-1", "record.json"]


def test_a_full_disk_leaves_the_last_whole_checkpoint_and_a_clear_error(rte_folder, tmp_path, monkeypatch):
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    overrides = ("training.epochs=2", "method=full")
    whole, cut = (tiny(rte_folder, tmp_path / name, *overrides) for name in ("whole", "cut"))
    experiment.run(whole)
    try:
        with pytest.raises(UserError, match="the checkpoint of step 10 cannot be written there"):
            run_with(FullDisk(), cut, monkeypatch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, handler)
    record = json.loads((run_directory(cut) / "record.json").read_text())
    assert record["status"] == "failed"
    assert "cannot be written" in record["error"]
    assert (run_directory(cut) / "checkpoint-5" / "trainer_state.json").is_file()
    experiment.run(cut)
    assert weights(cut) == weights(whole)
