"""Runs that a signal ends in the middle of training."""

import os

from transformers import TrainerCallback

from meft_runner.run import arguments
from meft_runner.run import lifecycle as experiment


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
        build = arguments.build_trainer
        patch.setattr(experiment, "build_trainer", lambda *args: build(*args[:-1], [*args[-1], callback]))
        return experiment.run(chosen)
