"""Searches over settings: a table of their trials, and figures of the score by trial and by each setting."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from meft_runner.records.schema import Record
from meft_runner.records.search import Search
from meft_runner.reports.apart import one_line
from meft_runner.reports.figures import as_written, legend_below, panel_grid
from meft_runner.run.console import DASH

Searches = Mapping[str, tuple[Search, Sequence[Record | None]]]
_SHOWN = 10  # trials of a search on the terminal
_COLUMNS = ("backbone", "task", "method", "search", "trial")
_MARKS = {"complete": ("o", "tab:blue"), "pruned": ("v", "tab:orange")}
_BEST = "best so far"


def trials_table(searches: Searches) -> pd.DataFrame:
    """Returns the trials of searches, a row each: settings, epochs, the best score in percent, what became of it.

    Args:
        searches: by their names, each with the records of its trials, None where there is none.
    """
    rows = []
    keys = {key for search, _ in searches.values() for trial in search.trials for key in trial.settings}
    shared = Counter(map(_short, keys))
    columns = {key: _short(key) if shared[_short(key)] == 1 else one_line(key) for key in keys}
    for name, (search, records) in searches.items():
        for row in _trials(search, records):
            settings = {columns[key]: _text(value) for key, value in row.pop("settings").items()}
            names = (search.backbone, search.task, search.method, name.rpartition("-")[2])
            rows.append(dict(zip(_COLUMNS, map(one_line, names), strict=False)) | row | settings)
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows)
    last = ["epochs trained", "metric", "score (%)", "outcome"]
    table["score (%)"] = table["score (%)"].map("{:.2f}".format, na_action="ignore")
    return table[[*(name for name in table if name not in last), *last]].astype(object).fillna(DASH)


def brief(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the best trials of each search of a table, complete ones first."""
    scores = pd.to_numeric(table["score (%)"], errors="coerce")
    ranked = table.assign(_complete=table["outcome"] == "complete", _score=scores).sort_values(
        ["backbone", "task", "method", "search", "_complete", "_score"],
        ascending=[True, True, True, True, False, False],
        kind="stable",
    )
    best = ranked.groupby("search", sort=False).head(_SHOWN).drop(columns=["_complete", "_score"])
    return best.loc[:, (best != DASH).any()].reset_index(drop=True)


def search_figure(searches: Searches) -> Figure | None:
    """Draws each search: the score by trial with the best one so far, and the score by each setting that it varies."""
    drawn = {name: found for name, found in searches.items() if _scored(*found)}
    if not drawn:
        return None
    titles = []
    for search, _ in drawn.values():
        what = one_line(f"{search.backbone}, {search.task}, {search.method}")
        titles += [f"{what}: by trial", *(f"{what}: {_short(key)}" for key in search.space)]
    figure, panels = panel_grid(titles)
    rest = iter(panels)
    for search, records in drawn.values():
        trials = _scored(search, records)
        _draw_trials(next(rest), trials)
        for key, space in search.space.items():
            _draw_setting(next(rest), trials, key, space)
    legend_below(figure)
    return figure


def _trials(search: Search, records: Sequence[Record | None]) -> list[dict[str, Any]]:
    """Returns what is known of each trial: number from 1, settings, epochs, metric, score in percent, outcome."""
    rows = []
    for number, (trial, record) in enumerate(zip(search.trials, records, strict=True), start=1):
        scores = record.scores if record is not None else None
        outcome = "failed" if trial.error is not None else "running" if record is None else record.status
        rows.append(
            {
                "trial": number,
                "settings": trial.settings,
                "epochs trained": len(scores.history) if scores else None,
                "metric": scores.metric if scores else None,
                "score (%)": None if scores is None or scores.best is None else 100 * scores.best,
                "outcome": outcome,
            }
        )
    return rows


def _scored(search: Search, records: Sequence[Record | None]) -> list[dict[str, Any]]:
    """Returns the trials that can be drawn: complete and pruned ones that have a score."""
    return [row for row in _trials(search, records) if row["outcome"] in _MARKS and row["score (%)"] is not None]


def _draw_trials(axes: Axes, trials: Sequence[Mapping[str, Any]]) -> None:
    _draw(axes, trials, [row["trial"] for row in trials])
    complete = [row for row in trials if row["outcome"] == "complete"]
    best = pd.Series([row["score (%)"] for row in complete], dtype=float).cummax()
    axes.step([row["trial"] for row in complete], best, where="post", color="black", linewidth=1, label=_BEST)
    axes.set(xlabel="trial", ylabel="score (%)")


def _draw_setting(axes: Axes, trials: Sequence[Mapping[str, Any]], key: str, space: Sequence[Any]) -> None:
    if space and space[-1] in ("log", "linear"):
        _draw(axes, trials, [row["settings"].get(key) for row in trials])
        axes.set_xscale(space[-1])
        low, high = float(space[0]), float(space[1])
        middle = (low * high) ** 0.5 if space[-1] == "log" else (low + high) / 2
        axes.set_xticks([low, middle, high], [f"{value:.3g}" for value in (low, middle, high)])
        axes.minorticks_off()
    else:
        places = [_text(value) for value in space]
        texts = [_text(row["settings"].get(key)) for row in trials]
        _draw(axes, trials, [places.index(text) if text in places else None for text in texts])
        axes.set_xlim(-0.5, len(places) - 0.5)
        axes.set_xticks(range(len(places)), list(map(as_written, places)))
    axes.set(xlabel=_short(key), ylabel="score (%)")


def _draw(axes: Axes, trials: Sequence[Mapping[str, Any]], places: Sequence[Any]) -> None:
    """Draws the score of trials over these places; a trial whose place is not known is left out."""
    for outcome, (marker, colour) in _MARKS.items():
        points = [
            (place, row["score (%)"])
            for place, row in zip(places, trials, strict=True)
            if row["outcome"] == outcome and isinstance(place, int | float)
        ]
        if points:
            over, scores = zip(*points, strict=True)
            axes.scatter(over, scores, marker=marker, color=colour, s=18, label=outcome, zorder=3)


def _short(key: str) -> str:
    """Returns the name of a setting in a column or on an axis: method.rank is rank."""
    return one_line(key.rpartition(".")[2].replace("_", " "))


def _text(value: Any) -> str:
    return one_line(value if isinstance(value, str) else json.dumps(value))
