"""What a setting does to scores: where LoRA and (IA)^3 start, and how many layers MEFT makes reversible."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from meft_runner.records.schema import CompleteRecord
from meft_runner.reports.figures import (
    legend_below,
    log_axis_with_zero,
    method_styles,
    panel_grid,
    plot_means,
    plot_methods,
)
from meft_runner.reports.labels import layer_count, method_label
from meft_runner.reports.memory_tables import activations_mib
from meft_runner.reports.selection import chosen_runs, scored_runs

_STARTS = ("init_constant", "init_noise")
_AGAINST_LAYERS = {"memory": "activations (MiB)", "time": "median step (s)", "score": "score (%)"}
_START_STYLES = {
    "as usual": {"color": "black", "marker": "*", "linestyle": "", "markersize": 9},
    "constant": {"color": "tab:blue", "marker": "o", "linestyle": "-", "markersize": 4},
    "noise": {"color": "tab:orange", "marker": "s", "linestyle": "--", "markersize": 4},
}


def initialisation_study(records: Sequence[CompleteRecord]) -> Figure | None:
    """Draws the score over how far from the pre-trained model a method starts: a panel a task and method.

    The distance is that of the first outputs, relative to the pre-trained ones; a point is the mean of its seeds.
    """
    runs = chosen_runs(scored_runs(records))
    runs = runs.assign(
        distance=runs["record"].map(lambda record: record.start and record.start.output_distance).astype(float),
        kind=runs["record"].map(_start),
        method=[method_label(record, without=_STARTS) for record in runs["record"]],
    ).dropna(subset=["distance", "kind"])
    runs["distance"] = runs.groupby(["backbone", "task", "method", "settings"])["distance"].transform("mean")
    panels = [
        (names, part)
        for names, part in runs.groupby(["backbone", "task", "method"])
        if (part["kind"] != "as usual").any()
    ]
    if not panels:
        return None
    figure, axes = panel_grid([f"{backbone}: {task}, {method}" for (backbone, task, method), _ in panels])
    for ax, (_, part) in zip(axes, panels, strict=True):
        for kind, line in part.groupby("kind"):
            plot_means(ax, line, "distance", "score", str(kind), _START_STYLES[str(kind)])
        log_axis_with_zero(ax, "x", runs["distance"])  # both methods usually start at the pre-trained model itself
        ax.set(xlabel="distance of the first outputs", ylabel="score (%)")
    legend_below(figure)
    return figure


def reversible_layers(records: Sequence[CompleteRecord]) -> Figure | None:
    """Draws memory, time and score over the number of reversible layers, where runs left bottom layers frozen."""
    runs = chosen_runs(scored_runs([record for record in records if record.config.method.frozen_layers is not None]))
    runs = runs.assign(
        reversible=runs["record"].map(_reversible),
        memory=runs["record"].map(activations_mib),
        time=runs["record"].map(lambda record: record.timing and record.timing.median_step_seconds).astype(float),
        method=[method_label(record, without=("frozen_layers",)) for record in runs["record"]],
    ).dropna(subset=["reversible", "memory"])
    panels = [(names, part) for names, part in runs.groupby(["backbone", "task"]) if part["reversible"].nunique() > 1]
    if not panels:
        return None
    drawn = [(f"{backbone}: {task}", part, column) for (backbone, task), part in panels for column in _AGAINST_LAYERS]
    figure, axes = panel_grid([title for title, _, _ in drawn], columns=len(_AGAINST_LAYERS))
    styles = method_styles(runs["method"])
    for ax, (_, part, column) in zip(axes, drawn, strict=True):
        plot_methods(ax, part, "reversible", column, styles)
        ax.set(xlabel="reversible layers", ylabel=_AGAINST_LAYERS[column])
        if column != "score":
            ax.set_ylim(0, None)
    legend_below(figure)
    return figure


def _start(record: CompleteRecord) -> str | None:
    """Returns how a method's zeros or ones were changed before training; None where it has no such setting."""
    method = record.config.method
    if method.name not in ("lora", "ia3"):
        return None
    if method.init_noise is not None:
        return "noise"
    return "as usual" if method.init_constant is None else "constant"


def _reversible(record: CompleteRecord) -> int | None:
    layers = layer_count(record)
    return None if layers is None else layers - (record.config.method.frozen_layers or 0)
