"""The commands: meft-run, meft-memory, meft-tables and meft-predict."""

import gc
import os
import sys
from collections.abc import Callable, Sequence

from meft_runner import __version__
from meft_runner.config import register
from meft_runner.config.commands import parse_tables
from meft_runner.memory_report.asked import read_arguments
from meft_runner.memory_report.help_text import MEMORY_HELP
from meft_runner.predict.asked import read_arguments as read_predict_arguments
from meft_runner.predict.help_text import PREDICT_HELP
from meft_runner.reports.help_text import TABLES_HELP
from meft_runner.run.command import guarded
from meft_runner.run.output import open_closed_streams
from meft_runner.run.quiet import quiet_imports

_VERBOSE = ("-v", "--verbose")


def meft_run() -> None:
    """Entry point of `meft-run`: trains, records and prints a run, or each run of a sweep with -m."""
    _end(_run)


def meft_memory() -> None:
    """Entry point of `meft-memory`: predicts, and measures where asked, what training steps need."""
    _end(_report_memory, MEMORY_HELP)


def meft_tables() -> None:
    """Entry point of `meft-tables`: makes tables, figures and a report from a folder of records."""
    _end(_make_tables, TABLES_HELP)


def meft_predict() -> None:
    """Entry point of `meft-predict`: answers new rows with a trained run, and scores them where they have labels."""
    _end(_predict, PREDICT_HELP)


def _end(command: Callable[[Sequence[str]], int | None], help_text: str | None = None) -> None:
    """Ends the process with the exit code of a command; `help_text` is None where Hydra prints it."""
    open_closed_streams()
    typed = sys.argv[1:]
    arguments = [argument for argument in typed if argument not in _VERBOSE]
    if arguments != typed:
        os.environ["MEFT_VERBOSE"] = "1"  # also for the processes of a launcher
    quiet_imports()
    register()
    if "--version" in arguments:
        text = f"meft-runner {__version__}"
    elif help_text is not None and {"-h", "--help"} & set(arguments):
        text = help_text
    else:
        sys.exit(guarded(lambda: command(arguments)))
    sys.exit(guarded(lambda: print(text)))


def _run(arguments: Sequence[str]) -> int:
    from meft_runner.sweeps.command import run

    return run(arguments)


def _report_memory(arguments: Sequence[str]) -> None:
    asked, overrides = read_arguments(arguments)
    gc.disable()  # a fifth of the time of these imports goes to looking for garbage among what stays
    from meft_runner.memory_report.report import report

    gc.freeze()
    gc.enable()
    report(asked, overrides)


def _predict(arguments: Sequence[str]) -> int:
    asked, paths = read_predict_arguments(arguments)
    from meft_runner.predict.command import predict

    return predict(asked, paths)


def _make_tables(arguments: Sequence[str]) -> None:
    asked = parse_tables(arguments)
    from meft_runner.reports.overview import make_overview

    make_overview(asked)
