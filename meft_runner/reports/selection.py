"""Which of several settings of a method stands for it.

A search over settings has one seed a setting, the setting it ends with has several: that one is shown, and
not another that was lucky once.
"""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from meft_runner.config import result_settings
from meft_runner.records.record import folder_name
from meft_runner.records.schema import CompleteRecord
from meft_runner.reports.labels import backbone_labels, is_of_texts, method_label, task_labels
from meft_runner.run.reuse import base_digests

CELL = ["backbone", "method", "task"]  # of a score table
_RUN = [*CELL, "settings", "seed"]
_PLACES_OF_ROWS = {"task.data_dir", "task.train_file", "task.eval_file", "task.hub", "task.hub_config", "task.revision"}


def scored_runs(records: Sequence[CompleteRecord]) -> pd.DataFrame:
    """Returns the runs that ended with a score, a row each; studies have none, and a seed of a setting counts once.

    Returns:
        Columns `backbone`, `method`, `task` (with its metric; other rows are another task), `settings` (all but the
        seed), `seed`, `score` in percent, nan where it is not defined, and the `record` itself.
    """
    runs = _all_runs(records)
    return runs[~runs.duplicated(_RUN)]


def trained_twice(records: Sequence[CompleteRecord]) -> list[str]:
    """Returns which runs do not count, as another of their settings and seed does, though its score is another."""
    counted: dict[tuple[Any, ...], CompleteRecord] = {}
    lines = []
    for *run, record in _all_runs(records)[[*_RUN, "record"]].itertuples(index=False):
        first = counted.setdefault(tuple(run), record)
        assert first.scores is not None
        assert record.scores is not None
        if first.scores.best != record.scores.best:
            name, other = (folder_name(each.config, each.identity) for each in (record, first))
            lines.append(f"{name}: counts in no score, as {other} has its settings and its seed, but another score.")
    return lines


def _all_runs(records: Sequence[CompleteRecord]) -> pd.DataFrame:
    rows = [
        {
            "backbone": backbone,
            "method": method_label(record),
            "task": f"{task} {record.scores.metric}",
            "settings": _settings_without_seed(record),
            "seed": record.config.seed,
            "score": None if record.scores.best is None else 100 * record.scores.best,
            "record": record,
        }
        for record, backbone, task in zip(records, backbone_labels(records), task_labels(records), strict=True)
        if record.scores is not None
    ]
    return pd.DataFrame(rows, columns=[*_RUN, "score", "record"]).astype({"score": float})


def chosen_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Returns, of `scored_runs`, all seeds of the setting that stands for each backbone, method and task.

    It is the setting with the most seeds; of several, the one with the best mean, as the paper chooses
    hyper-parameters.
    """
    settings = runs.groupby([*CELL, "settings"], sort=False)["score"].agg(["count", "mean"])
    ranked = settings.sort_values(["count", "mean"], ascending=False, kind="stable")
    best = ranked.groupby(CELL, sort=False).head(1)
    return runs[pd.MultiIndex.from_frame(runs[[*CELL, "settings"]]).isin(best.index)]


def averages(runs: pd.DataFrame) -> pd.DataFrame:
    """Returns the average score over all tasks of a backbone of each method that has them all.

    Made-up tasks are left out, and texts, whose score is no share of right answers.

    Args:
        runs: chosen ones.

    Returns:
        Columns `backbone`, `method`, `score`; a row a seed where every task has a score of it, otherwise one row, the
        average of the tasks' means.
    """
    left_out = [record.data.synthetic or is_of_texts(record) for record in runs["record"]]
    real = runs[~runs["task"].isin(runs.loc[left_out, "task"])]
    rows = []
    for backbone, tasks in real.groupby("backbone"):
        for method, part in tasks.groupby("method"):
            scores = part.groupby(["seed", "task"])["score"].mean().unstack()
            scores = scores.reindex(columns=tasks["task"].unique())
            means = [scores.mean().mean(skipna=False)] if scores.isna().any(axis=None) else scores.mean(axis=1)
            rows += [{"backbone": backbone, "method": method, "score": score} for score in means]
    return pd.DataFrame(rows, columns=["backbone", "method", "score"]).astype({"score": float}).dropna(subset="score")


def one_of_each(records: Sequence[CompleteRecord]) -> list[CompleteRecord]:
    """Returns one record of each setting that stands for a backbone, method and task."""
    return chosen_runs(scored_runs(records)).groupby(CELL, sort=False).head(1)["record"].tolist()


def _settings_without_seed(record: CompleteRecord) -> str:
    """Returns all settings but the seed, and but the places of rows and weights whose digests are in the record.

    Labels tell those digests apart; where the record has none, a path is all that does. The other files of a model's
    folder stand for it, as two of the same weights may have other tokenizers.
    """
    left_out = {"seed"}
    if record.data.splits and all(split.fingerprint for split in record.data.splits.values()):
        left_out |= _PLACES_OF_ROWS
    if record.weights is not None and record.weights.sha256:
        left_out.add("backbone.path")
    meant = result_settings(record.config.plain(), record.method_version)
    files = base_digests(record)
    left_out |= {"task.chat_template"} & {name.partition("/")[0] for name in files}
    kept = {key: value for key, value in (meant | files).items() if key not in left_out}
    return json.dumps(kept, sort_keys=True)
