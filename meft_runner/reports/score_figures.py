"""Figures of scores, made from records alone."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from meft_runner.records.schema import CompleteRecord
from meft_runner.reports.figures import legend_below, log_axis_with_zero, method_styles, panel_grid, plot_methods
from meft_runner.reports.labels import method_label
from meft_runner.reports.memory_tables import activations_mib
from meft_runner.reports.selection import CELL, averages, chosen_runs, scored_runs


class _Over(NamedTuple):
    """What scores are drawn over.

    Attributes:
        name: of its column.
        label: of its axis.
        of: reads it from a record.
        without: settings that make no line of their own, since they move along it.
    """

    name: str
    label: str
    of: Callable[[CompleteRecord], float | None]
    without: tuple[str, ...] = ()

    @property
    def axes(self) -> tuple[str, str, str, str]:
        """The columns and the labels of both axes."""
        return self.name, "score", self.label, "score (%)"


def _hidden_distance(record: CompleteRecord) -> float | None:
    return None if record.start is None else record.start.hidden_distance


_MEMORY = _Over("memory", "activations (MiB)", activations_mib)
_DISTANCE = _Over("distance", "distance of the first hidden states", _hidden_distance, ("scale_1", "scale_2"))


def score_against_memory(records: Sequence[CompleteRecord]) -> Figure | None:
    """Draws the score over activation memory: a panel a task, a point a method."""
    return _panels(_by_task(records, _MEMORY), *_MEMORY.axes)


def score_against_distance(records: Sequence[CompleteRecord]) -> Figure | None:
    """Draws the score over how far from pre-training a method starts: a panel a task, a line over scales a method."""
    return _panels(_by_task(records, _DISTANCE), *_DISTANCE.axes)


def average_against_memory(records: Sequence[CompleteRecord]) -> Figure | None:
    """Draws the average score of several tasks over their mean activation memory: a panel a backbone."""
    return _panels(_averaged(records, _MEMORY), *_MEMORY.axes)


def average_against_distance(records: Sequence[CompleteRecord]) -> Figure | None:
    """Draws the average score of several tasks over how far from pre-training a method starts, likewise."""
    return _panels(_averaged(records, _DISTANCE), *_DISTANCE.axes)


def training_loss_curves(records: Sequence[CompleteRecord]) -> Figure | None:
    """Draws the training loss over epochs: a panel a task, a line a method."""
    return _panels(_epochs(records).dropna(subset="train_loss"), "epoch", "train_loss", "epoch", "training loss")


def score_curves(records: Sequence[CompleteRecord]) -> Figure | None:
    """Draws the development score over epochs: a panel a task, a line a method."""
    return _panels(_epochs(records).dropna(subset="score"), "epoch", "score", "epoch", "score (%)")


def _with(records: Sequence[CompleteRecord], over: _Over) -> pd.DataFrame:
    """Returns the chosen runs in which something is known, its median of a method and task in a column of its name."""
    runs = chosen_runs(scored_runs(records))
    runs[over.name] = runs["record"].map(over.of).astype(float)
    runs = runs.dropna(subset=[over.name, "score"])
    runs[over.name] = runs.groupby(CELL)[over.name].transform("median")
    return runs.assign(line=[method_label(record, over.without) for record in runs["record"]])


def _by_task(records: Sequence[CompleteRecord], over: _Over) -> pd.DataFrame:
    """Returns the runs of `_with`, named as the line that they are part of."""
    runs = _with(records, over)
    return runs.assign(method=runs["line"])


def _averaged(records: Sequence[CompleteRecord], over: _Over) -> pd.DataFrame:
    """Returns the average of each seed over the tasks of a backbone that has several, made-up ones left out."""
    runs = _with(records, over)
    real = runs[~runs["record"].map(lambda record: record.data.synthetic).astype(bool)]
    tasks = real.groupby("backbone")["task"].nunique()
    places = real.drop_duplicates(CELL).groupby(["backbone", "method", "line"])[over.name].mean().reset_index()
    table = averages(real).merge(places, on=["backbone", "method"])
    numbers = table["backbone"].map(tasks)
    table = table.assign(method=table["line"], task=numbers.map("average of {:g} tasks".format))
    return table[numbers > 1]


def _panels(table: pd.DataFrame, over: str, column: str, xlabel: str, ylabel: str) -> Figure | None:
    """Draws a column over another: a panel a backbone and task, a line a method, the mean of its seeds."""
    if table.empty:
        return None
    panels = list(table.groupby(["backbone", "task"]))
    figure, axes = panel_grid([f"{backbone}: {task}" for (backbone, task), _ in panels])
    styles = method_styles(table["method"])
    for ax, (_, part) in zip(axes, panels, strict=True):
        plot_methods(ax, part, over, column, styles)
        ax.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1.08 * ax.dataLim.xmax))
        if over == "distance":
            log_axis_with_zero(ax, "x", table[over])  # some methods start at the pre-trained model itself
    legend_below(figure)
    return figure


def _epochs(records: Sequence[CompleteRecord]) -> pd.DataFrame:
    """Returns every epoch of the chosen runs, a row each, with its `train_loss` and its `score` in percent."""
    rows = [
        {
            **{name: run[name] for name in CELL},
            "epoch": epoch.epoch,
            "train_loss": epoch.train_loss,
            "score": epoch.metrics.get(run["record"].scores.metric),
        }
        for run in chosen_runs(scored_runs(records)).to_dict("records")
        for epoch in run["record"].scores.history
    ]
    table = pd.DataFrame(rows, columns=[*CELL, "epoch", "train_loss", "score"])
    table = table.astype({"train_loss": float, "score": float})
    return table.assign(score=100 * table["score"])
