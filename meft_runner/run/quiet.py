"""Keeps libraries from printing what a user cannot act on; MEFT_VERBOSE=1, which -v sets, lets them."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Their errors are raised too, and reported in one line. Warnings of several of them are logged.
_LIBRARIES = (
    "accelerate", "bitsandbytes", "datasets", "filelock", "fsspec", "httpx", "httpx2", "huggingface_hub", "peft",
    "torch", "transformers",
)  # fmt: skip


@contextmanager
def quiet() -> Iterator[None]:
    """Leaves of what libraries print inside only the progress of downloads, on a terminal."""
    import datasets  # a run imports them anyway; other commands need `silent` alone
    import huggingface_hub.utils as hub
    from transformers.utils import logging as transformers_logging

    if not _verbose():
        transformers_logging.disable_progress_bar()  # of loading, and the hub's with it
        datasets.disable_progress_bars()
        if sys.stderr.isatty():
            hub.enable_progress_bars()
    with silent():
        yield


@contextmanager
def silent() -> Iterator[None]:
    """Keeps libraries from logging and warning inside."""
    if _verbose():
        yield
        return
    loggers = [logging.getLogger(name) for name in _LIBRARIES]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def quiet_imports() -> None:
    """Keeps bitsandbytes from logging, when it is imported, that it lacks a kernel which nothing here uses."""
    if not _verbose():
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _verbose() -> bool:
    return os.environ.get("MEFT_VERBOSE") == "1"
