"""SIGTERM and Ctrl-C: training stops after writing a checkpoint, and the same command goes on from there."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, ClassVar

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from meft_runner.run import processes

_log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)  # the last one is SLURM's, before the time is up
_SAME_SECONDS = 1.0  # Ctrl-C may reach a process twice, from the terminal and from the sweep that started it


class InterruptedRunError(KeyboardInterrupt):
    """A signal stopped a run, which has written its checkpoint; not an Exception, so that a sweep stops too."""


class Interruption(TrainerCallback):
    """Asks for a checkpoint after the step in which a signal came, and stops when it is written; before that, at once.

    Attributes:
        stopped: whether a run of this process was stopped; a launcher's process then begins no other.
    """

    stopped: ClassVar[bool] = False

    def __init__(self) -> None:
        self._signal: int | None = None
        self._came = 0.0
        self._training = False

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
            if self._signal == signal.SIGUSR2:
                signal.raise_signal(signal.SIGUSR2)  # to whom it was for: submitit starts the job once more

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """From now on there is something to save."""
        self._training = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Asks for a checkpoint and the loss so far, unless the epoch ends here, which has both after its scores."""
        ends_epoch = state.epoch is not None and float(state.epoch).is_integer()
        if processes.any_of(self._signal is not None) and not ends_epoch and not control.should_training_stop:
            control.should_log = control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stops after a checkpoint has been written.

        Raises:
            InterruptedRunError: a signal came.
        """
        if processes.any_of(self._signal is not None):
            self._stop()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The last checkpoint has been written."""
        self._training = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and time.monotonic() - self._came < _SAME_SECONDS:
            return
        again, self._signal, self._came = self._signal is not None, number, time.monotonic()
        if again or not self._training:
            self._stop()
        _log.warning("%s: writing a checkpoint first; once more stops at once.", signal.Signals(number).name)

    def _stop(self) -> None:
        Interruption.stopped = True
        raise InterruptedRunError
