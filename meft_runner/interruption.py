"""SIGTERM and Ctrl-C: training stops behind a checkpoint, and the same command goes on from there."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from meft_runner import processes

_log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class InterruptedRunError(KeyboardInterrupt):
    """A run was told to stop and has written its checkpoint; not an Exception, so that a sweep stops too."""


class Interruption(TrainerCallback):
    """Asks for a checkpoint after the step in which a signal came, and stops behind it."""

    def __init__(self) -> None:
        self._signal: int | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Notes signals inside; only the main thread of a process can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        earlier = {number: signal.signal(number, self._note) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Asks for a checkpoint and the loss so far, unless the epoch ends here, which has both after its scores."""
        ends_epoch = state.epoch is not None and float(state.epoch).is_integer()
        if processes.any_of(self._signal is not None) and not ends_epoch and not control.should_training_stop:
            control.should_log = control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stops behind a checkpoint.

        Raises:
            InterruptedRunError: a signal came.
        """
        if processes.any_of(self._signal is not None):
            raise InterruptedRunError

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            raise KeyboardInterrupt  # a second one: at once
        self._signal = number
        _log.warning("%s: writing a checkpoint first; once more stops at once.", signal.Signals(number).name)
