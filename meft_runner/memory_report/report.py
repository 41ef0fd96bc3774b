"""The report of `meft-memory`: a table, a curve, a timeline, or what fits."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from meft_runner.config import MemorySettings, Sweep
from meft_runner.config.sizes import parse_bytes
from meft_runner.errors import writing
from meft_runner.memory_report import fit
from meft_runner.memory_report.case import Case
from meft_runner.memory_report.cases import cases
from meft_runner.memory_report.forms import brief, method_labels, print_rows, shown
from meft_runner.memory_report.prediction import rows, trace
from meft_runner.run.quiet import silent

_COLUMNS = {Sweep.length: "length", Sweep.depth: "depth", Sweep.batch: "batch_size"}


def report(asked: MemorySettings, overrides: Sequence[str]) -> None:
    """Answers what `meft-memory` was asked, without the warnings of libraries unless -v asks for them.

    Args:
        asked: what to combine, and what to make of it.
        overrides: settings of a run that hold for every case that has them, such as method.chunks=4.

    Raises:
        UserError: a value does not fit, or figures cannot be written.
    """
    with silent():
        _answer(asked, overrides)


def _answer(asked: MemorySettings, overrides: Sequence[str]) -> None:
    budget = None if asked.fit is None else parse_bytes("fit", asked.fit)
    found, folder = cases(asked, overrides), Path(asked.output_dir)
    if asked.timeline or asked.sweep is not None:
        with writing("figures", folder):
            folder.mkdir(parents=True, exist_ok=True)  # before the work is done
    if budget is not None:
        made = fit.answers(found, budget)
        table = fit.shown(made)
        print_rows(made, asked.format, table, table, f"what fits into {asked.fit}, predicted")
    elif asked.timeline:
        _draw_timelines(found, folder)
    else:
        made = rows(found, asked.measure)
        table = shown(made)
        print_rows(made, asked.format, table, brief(table), "memory of a training step")
        if asked.sweep is not None:
            _draw_curve(made, _COLUMNS[asked.sweep], folder)


def _draw_timelines(found: list[Case], folder: Path) -> None:
    from meft_runner.reports.figures import save_figure, timeline_figure  # imports half a second; a table needs none

    name = "_".join(dict.fromkeys(case.backbone.name for case in found))
    timelines = {label(case): trace(case) for case in found}
    with writing("figures", folder):
        _tell(save_figure(timeline_figure(timelines, "live bytes, predicted"), folder, f"{name}_timeline"))


def _draw_curve(made: list[dict[str, Any]], over: str, folder: Path) -> None:
    from meft_runner.reports.figures import memory_curve, save_figure

    table = pd.DataFrame(made)
    name = table["backbone"].iloc[0]  # a sweep has one
    predicted = table.assign(label=method_labels(table))[table["source"] == "predicted"]
    figure = memory_curve(predicted, over, f"{name}: activations of a training step, predicted")
    with writing("figures", folder):
        _tell(save_figure(figure, folder, f"{name}_{over.removesuffix('_size')}"))


def label(case: Case) -> str:
    """Returns what a timeline calls a case: all that sets it apart from others."""
    length = "" if case.length is None else f" x {case.length}"
    machine = f"{case.precision.name}, attention {case.attention.name}"
    return f"{case.backbone.name} {case.method_label}, {case.batch_size}{length}, {machine}"


def _tell(files: list[Path]) -> None:
    print(*(f"written: {file}" for file in files), sep="\n", file=sys.stderr)
