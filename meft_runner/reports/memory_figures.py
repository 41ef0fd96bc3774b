"""Figures of measured memory, made from records alone."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from meft_runner.records.schema import CompleteRecord
from meft_runner.reports.figures import legend_below, method_styles, panel_grid, plot_methods
from meft_runner.reports.memory_tables import SELDOM_APART, memory_runs


def memory_over_depth(records: Sequence[CompleteRecord]) -> Figure | None:
    """Draws activation memory over the number of layers, where a backbone was stacked to several depths."""
    return _memory_over(records, "layers", "length")


def memory_over_length(records: Sequence[CompleteRecord]) -> Figure | None:
    """Draws activation memory over the length of rows, where there are several for a backbone."""
    return _memory_over(records, "length", "layers")


def _memory_over(records: Sequence[CompleteRecord], over: str, fixed: str) -> Figure | None:
    """Draws a panel for each backbone and batch with several values of `over`, a line a method."""
    runs = memory_runs(records)
    if runs.empty:
        return None
    same = ["name", "batch", fixed, "precision", "attention", "source", *SELDOM_APART]
    several = runs.groupby([*same, "method"], dropna=False)[over].transform("nunique") > 1
    panels = list(runs[several].groupby(same, dropna=False))
    if not panels:
        return None
    apart = [column for column in SELDOM_APART if runs.loc[several, column].nunique() > 1]
    units = "length {:g}" if fixed == "length" else "{:g} layers"
    titles = [
        f"{key[0]}: batch {key[1]}, {key[3]}, {units.format(key[2])}"
        + "".join(f", {column} {value}" for column, value in zip(same, key, strict=True) if column in apart)
        for key, _ in panels
    ]
    figure, axes = panel_grid(titles)
    styles = method_styles(runs.loc[several, "method"])
    for ax, (_, part) in zip(axes, panels, strict=True):
        plot_methods(ax, part, over, "activations (MiB)", styles)
        ax.set(xlabel=over, ylabel="activations (MiB)", xlim=(0, 1.08 * ax.dataLim.xmax), ylim=(0, None))
    legend_below(figure)
    return figure
