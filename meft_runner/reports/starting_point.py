"""Where methods start and what their reversal keeps, made from records alone; and adapters in the plain model."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import pandas as pd

from meft_runner.config import result_settings
from meft_runner.config.methods import KEEPS_MEAN
from meft_runner.records.schema import CompleteRecord
from meft_runner.reports.labels import (
    backbone_labels,
    in_task_order,
    is_of_texts,
    method_label,
    task_labels,
)
from meft_runner.reports.memory_tables import activations_mib, without_equal
from meft_runner.reports.score_tables import score_texts
from meft_runner.reports.selection import CELL, chosen_runs, scored_runs
from meft_runner.run.console import MIB

_COUPLING = ("scale_1", "scale_2", "mu")  # have columns of their own
_BESIDE = ["precision", "batch", "length", "accumulation"]
_CASE = [*CELL, *_BESIDE]
_DISTANCES = ["hidden distance", "output distance"]
_SIZES = ["activations (MiB)", "retained (MiB)"]


class Tied(NamedTuple):
    """How the streams of a run are tied.

    Attributes:
        scales: lambda and beta, as far as they are below 1.
        mu: in words; None where nothing is tied.
        bits: what exact streams keep for each element and layer; None where activations are kept as they are.
    """

    scales: tuple[Fraction, ...]
    mu: str | None
    bits: int | None

    @property
    def text(self) -> str | None:
        """The scales as they are typed, once where they are equal."""
        return ", ".join(map(str, dict.fromkeys(self.scales))) or None


def tied(record: CompleteRecord) -> Tied:
    """Returns how the streams of a run are tied, in whatever form that was typed and whatever its version left out."""
    meant = result_settings(record.config.plain(), record.method_version)
    scales = [Fraction(meant[key]) for key in ("method.scale_1", "method.scale_2") if key in meant]
    if not scales:
        return Tied((), None, None)
    pairs = zip(scales, meant.get("method.mu", [1.0] * len(scales)), strict=True)
    scaled = [(scale, mu) for scale, mu in pairs if scale < 1]
    mus = {KEEPS_MEAN if math.isclose(mu, 1 - scale) else f"{mu:g}" for scale, mu in scaled}
    below = tuple(scale for scale, _ in scaled)
    return Tied(below, ", ".join(sorted(mus)) or "1", _bits(meant["method.reversal"], below))


def starting_table(records: Sequence[CompleteRecord]) -> pd.DataFrame:
    """Returns how far from pre-training methods start, what a layer keeps, memory, and scores where there are any.

    A row a backbone, task, method, scale and mu; runs of other seeds and learning rates are put together: medians, and
    the score of the setting that stands for the method.
    """
    runs = _runs(records)
    if runs.empty:
        return runs
    cases = runs.groupby(_CASE, sort=False, dropna=False)
    table = cases[[*_DISTANCES, *_SIZES]].median()
    table[["label", "scale", "mu", "bits", "size"]] = cases[["label", "scale", "mu", "bits", "size"]].first()
    scores = score_texts(runs[runs["chosen"]].groupby(_CASE, dropna=False)["score"])
    if not scores.empty:
        table["score (%)"] = scores
    table = table.sort_values(["size", "mu"], ascending=[False, True], na_position="first").reset_index()
    return without_equal(_shown(in_task_order(table.assign(method=table["label"]))))


def brief(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the columns of a starting table that a terminal has room for."""
    return table.drop(columns=_BESIDE, errors="ignore")


def plain_table(records: Sequence[CompleteRecord]) -> pd.DataFrame:
    """Returns what adapters that were trained in coupled layers score in the plain model: a row a task and method.

    The chosen setting's seeds: means and deviations of both scores, the mean difference, and how far outputs are apart.
    Language models have the loss a token in nats in place of a score.
    """
    runs = chosen_runs(scored_runs(records))
    runs = runs[runs["record"].map(lambda record: record.plain_model is not None).astype(bool)]
    if runs.empty:
        return pd.DataFrame()
    parts = runs["record"].map(lambda record: record.plain_model)
    coupled = parts.map(lambda part: part.coupled_score).astype(float)
    plain = parts.map(lambda part: part.score).astype(float)
    of_texts = runs["record"].map(is_of_texts).astype(bool)
    runs = runs.assign(distance=parts.map(lambda part: part.output_distance).astype(float))
    runs.loc[of_texts, "task"] = runs.loc[of_texts, "task"].str.rsplit(n=1).str[0]  # without the score's name
    shares = _both(runs, 100 * coupled.mask(of_texts), 100 * plain.mask(of_texts), " (%)", 1)
    losses = _both(runs, _losses(coupled.where(of_texts)), _losses(plain.where(of_texts)), " (loss)", 3)
    distance = runs.groupby(CELL)["distance"].mean().map("{:.3g}".format, na_action="ignore")
    shown = [*([] if of_texts.all() else [shares]), *([losses] if of_texts.any() else [])]
    table = pd.concat([*shown, distance.rename("output distance")], axis=1)
    return in_task_order(table.reset_index())[["backbone", "task", "method", *table]]


def _losses(scores: pd.Series) -> pd.Series:
    """Returns the losses of inverse perplexities; none of 0, whose loss is beyond what was recorded."""
    return scores.map(lambda score: -math.log(score) if score > 0 else math.nan)


def _both(runs: pd.DataFrame, coupled: pd.Series, plain: pd.Series, unit: str, digits: int) -> pd.DataFrame:
    """Returns the scores of each cell of runs in coupled layers and in the plain model, and the mean difference."""
    cells = runs.assign(coupled=coupled, plain=plain, difference=plain - coupled).groupby(CELL)
    apart = cells["difference"].mean().map(f"{{:+.{digits}f}}".format, na_action="ignore")
    coupled_texts, plain_texts = (score_texts(cells[name], digits) for name in ("coupled", "plain"))
    name = "plain - coupled" + ("" if unit == " (%)" else unit)
    return pd.DataFrame({f"coupled{unit}": coupled_texts, f"plain{unit}": plain_texts, name: apart})


def _runs(records: Sequence[CompleteRecord]) -> pd.DataFrame:
    """Returns a row for each run that measured where it starts, gradient studies left out."""
    chosen = chosen_runs(scored_runs(records))
    shares = chosen["score"].mask(chosen["record"].map(is_of_texts).astype(bool))
    scores = dict(zip((record.identity for record in chosen["record"]), shares, strict=True))
    rows = [
        {"backbone": backbone, "task": task, **_row(record), "score": scores.get(record.identity, math.nan),
         "chosen": record.identity in scores}
        for record, backbone, task in zip(records, backbone_labels(records), task_labels(records), strict=True)
        if record.start is not None and not record.gradients
    ]  # fmt: skip
    return pd.DataFrame(rows).astype(dict.fromkeys([*_DISTANCES, *_SIZES, "score"], float)) if rows else pd.DataFrame()


def _row(record: CompleteRecord) -> dict[str, Any]:
    how, start, memory = tied(record), record.start, record.memory
    assert start is not None
    return {
        "method": method_label(record),
        "label": method_label(record, without=_COUPLING),
        "scale": how.text,
        "size": float(max(how.scales)) if how.scales else math.nan,
        "mu": how.mu,
        "bits": how.bits,
        "hidden distance": start.hidden_distance,
        "output distance": start.output_distance,
        "activations (MiB)": activations_mib(record),
        "retained (MiB)": memory and memory.retained_after_forward_bytes / MIB,
        "precision": record.config.training.precision,
        "batch": memory and memory.batch_size,
        "length": memory and memory.length,
        "accumulation": record.config.training.gradient_accumulation,
    }


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the columns of a table in their order, with the digits that say something."""
    distances = {name: table[name].map("{:.3g}".format, na_action="ignore") for name in _DISTANCES}
    sizes = {name: table[name].round(1) for name in _SIZES}
    counts = {name: table[name].astype("Int64") for name in ("bits", "batch", "length")}
    columns = [
        "backbone", "task", "method", "scale", "mu", *distances, "bits", *sizes,
        *(["score (%)"] if "score (%)" in table else []), *_BESIDE,
    ]  # fmt: skip
    return table.assign(**distances, **sizes, **counts)[columns]


def _bits(mode: str, scales: Sequence[Fraction]) -> int | None:
    """Returns the bits of the remainders below n of every scale 1/n; floating point keeps none."""
    if mode == "stored":
        return None
    # 1, 2, 4 or 8 bits, as reversible/packing.py packs them; that one imports torch
    needed = [(scale.denominator - 1).bit_length() for scale in scales]
    return sum(1 << (bits - 1).bit_length() for bits in needed) if mode == "exact" else 0
