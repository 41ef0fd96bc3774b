"""Figures, each as PNG and SVG: what all share, and those of `meft-memory`."""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from meft_runner.config import METHODS
from meft_runner.files import write_whole

if TYPE_CHECKING:
    from meft_runner.memory.timeline import Timeline  # which imports torch

mpl.rcParams["svg.hashsalt"] = "meft-runner"  # the same figure is the same file
_GIB = 2**30
_CHECKPOINTED = {"false": "-", "true": "--", "offload": ":", "every_4": "-."}
_PHASES = ("forward", "backward", "optimizer")
_PALETTE = (
    "black", "tab:brown", "tab:blue", "tab:green", "tab:cyan", "tab:red", "lightcoral", "tab:orange", "tab:purple",
    "plum", "tab:olive", "tab:gray",
)  # fmt: skip
_COLOURS = dict(zip(METHODS, cycle(_PALETTE), strict=False))
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_PANELS_A_ROW = 3
FORMATS = ("png", "svg")


def method_styles(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns how the line of each label is drawn: a method's colour, and marks that tell its variants apart."""
    marks = {name: zip(cycle(_LINES), cycle(_MARKERS), strict=False) for name in _COLOURS}
    styles: dict[str, dict[str, Any]] = {}
    for label in sorted(set(labels)):
        name = _method(label)
        line, marker = next(marks[name])
        styles[label] = {"color": _COLOURS[name], "linestyle": line, "marker": marker, "markersize": 4}
    return styles


def panel_grid(titles: Sequence[str], columns: int = _PANELS_A_ROW) -> tuple[Figure, list[Axes]]:
    """Returns a figure with a panel for each title, so many in a row at the most."""
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(1.5 + 3.9 * columns, 0.8 + 3.2 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[len(titles) :]:
        axes.remove()
    for axes, title in zip(panels, titles, strict=False):
        axes.set_title(as_written(title), fontsize="medium")
        axes.grid(alpha=0.3)
    return figure, panels[: len(titles)]


def plot_means(axes: Axes, table: pd.DataFrame, over: str, column: str, label: str, style: dict[str, Any]) -> None:
    """Draws the mean of a column over another, with a bar of one standard deviation where there are several values."""
    values = table.groupby(over)[column]
    mean, deviation = values.mean(), values.std().fillna(0)
    axes.errorbar(mean.index, mean, yerr=deviation if (deviation > 0).any() else None, capsize=2, label=label, **style)


def plot_methods(axes: Axes, table: pd.DataFrame, over: str, column: str, styles: Mapping[str, dict[str, Any]]) -> None:
    """Draws `plot_means` of each method in a table."""
    for method, line in table.groupby("method"):
        plot_means(axes, line, over, column, str(method), styles[str(method)])


def log_axis_with_zero(axes: Axes, which: Literal["x", "y"], values: pd.Series) -> None:
    """Makes an axis logarithmic, but linear below the smallest value above 0: so 0 has its place on it."""
    smallest = values[values > 0].min()
    decade = 10.0 ** math.floor(math.log10(smallest)) if smallest > 0 else 1.0
    set_scale = axes.set_xscale if which == "x" else axes.set_yscale
    set_scale("symlog", linthresh=decade)
    axes.set(**{f"{which}lim": (-decade / 4, None)})


def legend_below(figure: Figure, title: str | None = None) -> None:
    """Puts one legend for all panels below them, methods in the order of tables."""
    found = [entry for axes in figure.axes for entry in zip(*axes.get_legend_handles_labels(), strict=True)]
    order = list(_COLOURS)
    labels = {str(label): line for line, label in found}
    names = sorted(labels, key=lambda label: (order.index(name) if (name := _method(label)) in order else 0, label))
    figure.legend(
        [labels[name] for name in names], list(map(as_written, names)), title=title, loc="outside lower center",
        ncols=min(3, len(figure.axes) + 1), fontsize="small", title_fontsize="small",
    )  # fmt: skip


def memory_curve(table: pd.DataFrame, over: str, title: str) -> Figure:
    """Draws the activation memory in rows of `meft-memory` over a column of theirs, a line a label."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for (label, checkpointing), part in table.groupby(["label", "checkpointing"], sort=False):
        line = part.sort_values(over)
        axes.plot(
            line[over], line["activations_bytes"] / _GIB, marker="o", markersize=3, label=label,
            color=_COLOURS[_method(str(label))], linestyle=_CHECKPOINTED[str(checkpointing)],
        )  # fmt: skip
    axes.set(xlabel=over.replace("_", " "), ylabel="activations (GiB)", title=title, xscale="log")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(sorted(table[over].unique()), [str(value) for value in sorted(table[over].unique())])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def timeline_figure(timelines: dict[str, "Timeline"], title: str) -> Figure:
    """Draws live bytes over one training step, a panel a method, with the three phases shaded."""
    figure = Figure(figsize=(8, 1 + 1.9 * len(timelines)), layout="constrained")
    panels = figure.subplots(len(timelines), 1, sharey=True, squeeze=False)
    for axes, (label, timeline) in zip(panels[:, 0], timelines.items(), strict=True):
        total = len(timeline.live_bytes)
        axes.fill_between(
            [index / total for index in range(total)],
            [value / _GIB for value in timeline.live_bytes],
            step="post",
            linewidth=0,
        )
        edges = [0, timeline.backward / total, timeline.optimizer / total, 1]
        for name, start, end, shade in zip(_PHASES, edges, edges[1:], (0.0, 0.12, 0.3), strict=False):
            axes.axvspan(start, end, color="grey", alpha=shade)
            place, side = (1, "right") if name == "optimizer" else (start, "left")  # that phase is narrow
            axes.text(place, 1.01, name, transform=axes.get_xaxis_transform(), fontsize="small", ha=side)
        peak = max(timeline.live_bytes) / _GIB
        axes.set(ylabel="live (GiB)", xlim=(0, 1), ylim=(0, None), xticks=[])
        axes.set_title(f"{label}: peak {peak:.2f} GiB", fontsize="medium", pad=12)
    panels[-1, 0].set_xlabel("operations of one training step")
    figure.suptitle(title)
    return figure


def as_written(text: str) -> str:
    """Returns a text that is drawn as it is: $ would begin a formula."""
    return text.replace("$", r"\$")


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Writes a figure as PNG and SVG and returns the files."""
    files = []
    for form in FORMATS:
        content = BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # of a file's name; nothing can be done
            figure.savefig(content, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None)
        files.append(folder / f"{name}.{form}")
        write_whole(files[-1], content.getvalue())
    return files


def _method(label: str) -> str:
    """Returns the method's name at the beginning of a label such as "meft1, float"."""
    return label.replace(",", " ").split()[0]
