"""How true the gradients of a reversal are: the table and figures of `study=gradients`, from records alone."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from meft_runner.records.schema import CompleteRecord
from meft_runner.reports.figures import legend_below, log_axis_with_zero, method_styles, panel_grid
from meft_runner.reports.labels import backbone_labels, in_method_order, method_label, task_labels

_TYPES = {"error": "float64", "cosine": "float64", "mismatches": "Int64"}
_CASE = ["backbone", "task", "method", "mode", "precision", "layers"]


def gradient_errors(records: Sequence[CompleteRecord]) -> pd.DataFrame:
    """Returns the relative error of the gradient of every layer of every study, a row each; nan is not finite.

    Returns:
        Columns `backbone`, `task`, `method`, `mode`, `precision`, `layers` (how many are reversible), `place` (from the
        bottom), `error`, `cosine`, `mismatches` (of the whole run, where the reversal is exact).
    """
    rows = [
        {
            "backbone": backbone,
            "task": task,
            "method": method_label(record, without=("reversal", "strict")),
            "mode": _mode(record),
            "precision": record.config.training.precision,
            "layers": len(record.gradients),
            "place": place,
            "error": layer.error,
            "cosine": layer.cosine,
            # Only exact reversal is checked for equality; streams of the published one never come back equal.
            "mismatches": record.reversal.mismatches if _mode(record) == "exact" else None,
        }
        for record, backbone, task in zip(
            records, backbone_labels(records, with_depth=False), task_labels(records), strict=True
        )
        if record.gradients and record.reversal
        for place, layer in enumerate(record.gradients)
    ]
    return pd.DataFrame(rows).astype(_TYPES) if rows else pd.DataFrame()


def reversal_table(records: Sequence[CompleteRecord]) -> pd.DataFrame:
    """Returns how true each reversal's gradients are, a row a case; the worst of seeds."""
    layers = gradient_errors(records)
    if layers.empty:
        return layers
    bottom = layers[layers["place"] == 0]
    table = pd.DataFrame(
        {
            "error at the bottom": _worst(bottom, "error", "max"),
            "largest error": _worst(layers, "error", "max"),
            "smallest cosine": _worst(layers, "cosine", "min"),
            "mismatches": layers.groupby(_CASE)["mismatches"].max(),
        }
    )
    return in_method_order(table.reset_index())


def gradients_by_layer(records: Sequence[CompleteRecord]) -> pd.DataFrame:
    """Returns error and cosine of every layer's gradient, the worst of seeds: two rows a study, a column a layer."""
    layers = gradient_errors(records)
    if layers.empty:
        return layers
    seeds = layers.groupby([*_CASE, "place"])
    worst = {"error": seeds["error"].max(skipna=False), "cosine": seeds["cosine"].min(skipna=False)}
    parts = [
        values.map("{:.2g}".format, na_action="ignore").unstack("place").assign(figure=figure)
        for figure, values in worst.items()
    ]
    table = pd.concat(parts).set_index("figure", append=True).sort_index(level=_CASE, sort_remaining=False)
    return in_method_order(table.rename(columns=lambda place: f"layer {place}").reset_index())


def reversal_by_layer(records: Sequence[CompleteRecord]) -> Figure | None:
    """Draws the relative error of gradients over layers: a panel a precision and depth, a line a method and mode."""
    layers = gradient_errors(records)
    panels = [] if layers.empty else list(layers.groupby(["backbone", "task", "precision", "layers"]))
    titles = [f"{backbone}: {task}, {precision}, {depth} layers" for (backbone, task, precision, depth), _ in panels]
    return _draw([part for _, part in panels], titles, "place", "layer, from the bottom")


def reversal_by_depth(records: Sequence[CompleteRecord]) -> Figure | None:
    """Draws the relative error at the bottom layer over depth: a panel a precision, a line a method and mode."""
    layers = gradient_errors(records)
    bottom = layers[layers["place"] == 0] if len(layers) else layers
    groups = [] if layers.empty else list(bottom.groupby(["backbone", "task", "precision"]))
    panels = [(name, part) for name, part in groups if part["layers"].nunique() > 1]
    titles = [f"{backbone}: {task}, {precision}, bottom layer" for (backbone, task, precision), _ in panels]
    return _draw([part for _, part in panels], titles, "layers", "reversible layers")


def _draw(panels: list[pd.DataFrame], titles: list[str], over: str, xlabel: str) -> Figure | None:
    if not panels:
        return None
    figure, axes = panel_grid(titles)
    everything = pd.concat(panels)
    styles = method_styles(everything["method"] + ", " + everything["mode"])
    for ax, part in zip(axes, panels, strict=True):
        for label, line in part.groupby(part["method"] + ", " + part["mode"]):
            style = styles[str(label)]
            errors = line.groupby(over)["error"].max(skipna=False)
            ax.plot(errors, label=str(label), **style)
            for place in errors.index[errors.isna()]:
                ax.plot(place, 0.97, "x", color=style["color"], transform=ax.get_xaxis_transform())
        log_axis_with_zero(ax, "y", everything["error"])
        ax.set(xlabel=xlabel, ylabel="relative error of the gradient")
    legend_below(figure, "x at the top: not finite" if everything["error"].isna().any() else None)
    return figure


def _mode(record: CompleteRecord) -> str:
    return record.config.method.reversal or "exact"


def _worst(layers: pd.DataFrame, column: str, which: str) -> pd.Series:
    """Returns the largest or smallest of each case, in words where one is not finite."""
    values = layers.groupby(_CASE)[column].agg(lambda part: getattr(part, which)(skipna=False))
    return values.map("{:.3g}".format, na_action="ignore").fillna("not finite")
