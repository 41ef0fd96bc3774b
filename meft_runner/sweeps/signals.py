"""Signals to a sweep whose runs are in processes of their own: each gets them, and the sweep waits for them."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

from meft_runner.run.folder import LOCKS

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stopping_together() -> Iterator[None]:
    """Makes SIGTERM and Ctrl-C end runs in child processes after their checkpoints; a second one ends all at once.

    Raises:
        KeyboardInterrupt: a signal came; no child is in a run any more.
    """
    earlier = {number: signal.signal(number, _stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    for each in _SIGNALS:
        signal.signal(each, signal.default_int_handler)
    for child in _children_in_runs():
        with suppress(psutil.Error):
            child.send_signal(signal.SIGTERM)
    while _children_in_runs():
        time.sleep(0.1)
    raise KeyboardInterrupt


def _children_in_runs() -> list[psutil.Process]:
    """Returns the processes below this one that hold the lock of a run."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(f"/{LOCKS}/" in file.path for file in child.open_files()):
                found.append(child)
    return found
