"""The commands: meft-run, meft-memory, meft-tables, meft-predict and meft-share."""

import gc
from collections.abc import Sequence

from meft_runner.config.commands import parse_tables
from meft_runner.memory_report.asked import read_arguments
from meft_runner.memory_report.help_text import MEMORY_HELP
from meft_runner.predict.asked import read_arguments as read_predict_arguments
from meft_runner.predict.help_text import PREDICT_HELP
from meft_runner.reports.help_text import TABLES_HELP
from meft_runner.run.command import end_process
from meft_runner.sharing.asked import read_arguments as read_share_arguments
from meft_runner.sharing.help_text import SHARE_HELP


def meft_run() -> None:
    """Entry point of `meft-run`: trains, records and prints a run, or each run of a sweep with -m."""
    end_process(_run)


def meft_memory() -> None:
    """Entry point of `meft-memory`: predicts, and measures where asked, what training steps need."""
    end_process(_report_memory, MEMORY_HELP)


def meft_tables() -> None:
    """Entry point of `meft-tables`: makes tables, figures and a report from a folder of records."""
    end_process(_make_tables, TABLES_HELP)


def meft_predict() -> None:
    """Entry point of `meft-predict`: answers new rows with a trained run, and scores them where they have labels."""
    end_process(_predict, PREDICT_HELP)


def meft_share() -> None:
    """Entry point of `meft-share`: pushes a run's trained weights to the model hub, with a model card."""
    end_process(_share, SHARE_HELP)


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


def _share(arguments: Sequence[str]) -> int:
    asked = read_share_arguments(arguments)
    from meft_runner.sharing.command import share

    return share(asked)


def _make_tables(arguments: Sequence[str]) -> None:
    asked = parse_tables(arguments)
    from meft_runner.reports.overview import make_overview

    make_overview(asked)
