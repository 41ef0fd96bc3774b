"""Figures of scores, made from records alone."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from meft_runner.records.schema import CompleteRecord
from meft_runner.reports.figures import legend_below, method_styles, panel_grid, plot_methods
from meft_runner.reports.memory_tables import activations_mib
from meft_runner.reports.selection import CELL, chosen_runs, scored_runs


def score_against_memory(records: Sequence[CompleteRecord]) -> Figure | None:
    """Draws the score over activation memory: a panel a task, a point a method."""
    runs = chosen_runs(scored_runs(records))
    runs = runs.assign(memory=runs["record"].map(activations_mib)).dropna(subset=["memory", "score"])
    if runs.empty:
        return None
    runs["memory"] = runs.groupby(CELL)["memory"].transform("median")
    return _panels(runs, "memory", "score", "activations (MiB)", "score (%)")


def training_loss_curves(records: Sequence[CompleteRecord]) -> Figure | None:
    """Draws the training loss over epochs: a panel a task, a line a method."""
    return _panels(_epochs(records).dropna(subset="train_loss"), "epoch", "train_loss", "epoch", "training loss")


def score_curves(records: Sequence[CompleteRecord]) -> Figure | None:
    """Draws the development score over epochs: a panel a task, a line a method."""
    return _panels(_epochs(records).dropna(subset="score"), "epoch", "score", "epoch", "score (%)")


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
