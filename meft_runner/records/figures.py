"""Figures, each as PNG and SVG."""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from meft_runner.memory.timeline import Timeline

mpl.use("Agg")  # files only, no window
mpl.rcParams["svg.hashsalt"] = "meft-runner"  # the same figure is the same file
_GIB = 2**30
_PHASES = ("forward", "backward", "optimizer")
_COLOURS = {
    "full": "black", "lora": "tab:blue", "ia3": "tab:green",
    "meft1": "tab:red", "meft2": "tab:orange", "meft3": "tab:purple",
}  # fmt: skip


def memory_curve(table: pd.DataFrame, over: str, title: str) -> Figure:
    """Draws activation memory over lengths, depths or batches, a line a method.

    Args:
        table: rows of `meft-memory`.
        over: the column on the horizontal axis.
        title: of the figure.
    """
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for (method, checkpointing), part in table.groupby(["method", "checkpointing"], sort=False):
        label = f"{method} + checkpointing" if checkpointing else method
        line = part.sort_values(over)
        axes.plot(
            line[over], line["activations_bytes"] / _GIB, marker="o", markersize=3, label=label,
            color=_COLOURS[str(method)], linestyle="--" if checkpointing else "-",
        )  # fmt: skip
    axes.set(xlabel=over.replace("_", " "), ylabel="activations (GiB)", title=title, xscale="log")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(sorted(table[over].unique()), [str(value) for value in sorted(table[over].unique())])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def timeline_figure(timelines: dict[str, Timeline], title: str) -> Figure:
    """Draws live bytes over one training step, a panel a method, with the three phases shaded."""
    figure, panels = plt.subplots(
        len(timelines), 1, figsize=(8, 1 + 1.9 * len(timelines)), sharey=True, squeeze=False, layout="constrained"
    )
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


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Writes a figure as PNG and SVG and returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.{suffix}" for suffix in ("png", "svg")]
    for file in files:
        figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
    plt.close(figure)
    return files
