"""SIGTERM in the middle of an epoch, and everything else that may stop a run."""

import json
import os
import resource
import signal

import pytest
from transformers import TrainerCallback

from meft_runner import experiment, interruption, training
from meft_runner.errors import UserError
from meft_runner.interruption import InterruptedRunError
from meft_runner.runs import run_directory
from tests.test_experiment import small


class SignalAt(TrainerCallback):
    """Sends this process a signal at the beginning of a step."""

    def __init__(self, step, number):
        self.step, self.number = step, number

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)
            self.step = -1


def run_with(callback, chosen, monkeypatch):
    with monkeypatch.context() as patch:
        build = training.build_trainer
        patch.setattr(experiment, "build_trainer", lambda *args: build(*args[:-1], [*args[-1], callback]))
        return experiment.run(chosen)


def weights(chosen):
    return (run_directory(chosen) / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("method", "step", "number"),
    [("meft1", 2, signal.SIGTERM), ("meft1", 4, signal.SIGINT), ("full", 6, signal.SIGTERM)],
)
def test_an_interrupted_run_ends_as_if_it_had_not_been(step, number, method, rte_folder, tmp_path, monkeypatch):
    overrides = ("training.epochs=2", f"method={method}")
    whole = small(rte_folder, tmp_path / "whole", *overrides)
    expected = experiment.run(whole)
    cut = small(rte_folder, tmp_path / "cut", *overrides)
    with pytest.raises(InterruptedRunError):
        run_with(SignalAt(step, number), cut, monkeypatch)
    directory = run_directory(cut)
    assert json.loads((directory / "record.json").read_text())["status"] == "running"
    assert (directory / f"checkpoint-{step + 1}").is_dir()
    found = experiment.run(cut)
    assert weights(cut) == weights(whole)
    losses = [[entry.pop("train_loss") for entry in record["scores"]["history"]] for record in (expected, found)]
    assert found["scores"] == expected["scores"]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)  # summed in two parts where an epoch was cut


def test_handlers_are_put_back_and_a_second_signal_stops_at_once():
    earlier = signal.getsignal(signal.SIGTERM)
    watch = interruption.Interruption()
    with watch.watching():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is earlier


class FullDisk(TrainerCallback):
    """From some step on, no file may grow beyond 4 MiB, which is less than the model has."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 7:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**22, resource.RLIM_INFINITY))


def test_a_full_disk_leaves_the_last_whole_checkpoint_and_a_clear_error(rte_folder, tmp_path, monkeypatch):
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    overrides = ("training.epochs=2", "method=full")
    whole, cut = (small(rte_folder, tmp_path / name, *overrides) for name in ("whole", "cut"))
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
