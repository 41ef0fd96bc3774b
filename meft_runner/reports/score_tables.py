"""Tables of scores, made from records alone: the paper's form, its hyper-parameters, and training losses."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from meft_runner.records.schema import CompleteRecord
from meft_runner.reports.labels import (
    backbone_labels,
    in_method_order,
    in_task_order,
    is_of_texts,
    method_label,
    task_kind,
    task_labels,
)
from meft_runner.reports.published import published_scores
from meft_runner.reports.selection import CELL, averages, chosen_runs, scored_runs
from meft_runner.run.console import DASH, rounded

_CHOICE = "choice"  # a kind of task
_OF_TEXTS = {  # metrics of language models: their columns, and digits
    "loss": ("loss", 3),
    "perplexity": ("perplexity", 2),
    "token_accuracy": ("token accuracy (%)", 1),
    "exact_match": ("exact match (%)", 1),
}
_DIFFERENCES = {"average - full": "full", "average - lora": "lora"}


def glue_table(records: Sequence[CompleteRecord]) -> pd.DataFrame:
    """Returns the `score_table` of all tasks but those of choices and of texts."""
    return score_table([record for record in records if task_kind(record) != _CHOICE and not is_of_texts(record)])


def qa_table(records: Sequence[CompleteRecord]) -> pd.DataFrame:
    """Returns the `score_table` of the tasks that choose one of several answers, which the paper has apart."""
    return score_table([record for record in records if task_kind(record) == _CHOICE])


def language_table(records: Sequence[CompleteRecord]) -> pd.DataFrame:
    """Returns what language models score on texts, completions and conversations: a row a method and task.

    The chosen setting's seeds, each at its best epoch: means and deviations of the loss a token in nats, perplexity,
    token accuracy, and exact matches of answers where they were asked for.
    """
    runs = chosen_runs(scored_runs([record for record in records if is_of_texts(record)]))
    if runs.empty:
        return pd.DataFrame()
    epochs = runs["record"].map(lambda record: record.scores.best_epoch)
    columns = {}
    for name, (column, digits) in _OF_TEXTS.items():
        values = epochs.map(lambda epoch, name=name: epoch and epoch.metrics.get(name)).astype(float)
        if values.notna().any():
            factor = 100 if column.endswith("(%)") else 1
            columns[column] = score_texts(runs.assign(value=factor * values).groupby(CELL)["value"], digits)
    table = pd.DataFrame(columns).reset_index()
    table["task"] = table["task"].str.rsplit(n=1).str[0]  # without the metric that chooses the epoch
    return in_task_order(table)[["backbone", "task", "method", *columns]]


def score_table(records: Sequence[CompleteRecord]) -> pd.DataFrame:
    """Returns best development scores in percent, in the paper's form: a row a method, a column a task.

    Runs that differ in nothing but the seed are averaged ("mean +- standard deviation (n)"). The average is
    over all tasks that the backbone was trained on, made-up ones left out, and is there where a method has
    all of them; its deviation is that of the seeds' averages.
    Below the methods of a backbone stand published figures of its full fine-tuning, where runs are of all rows.
    """
    runs = chosen_runs(scored_runs(records))
    if runs.empty:
        return pd.DataFrame()
    blocks = [_block(str(backbone), part) for backbone, part in runs.groupby("backbone")]
    table = pd.concat(blocks, ignore_index=True)
    columns = ["backbone", "method", *sorted(runs["task"].unique()), "average", *_DIFFERENCES, "trainable (%)"]
    return table[columns].astype(object).fillna(DASH)


def hyperparameter_table(records: Sequence[CompleteRecord]) -> pd.DataFrame:
    """Returns the settings behind the score tables: a row a backbone, task and method.

    The batch size is that of an optimizer step; `settings tried` counts those of which a run is complete.
    """
    runs = scored_runs(records)
    if runs.empty:
        return pd.DataFrame()
    tried = runs.groupby(CELL)["settings"].nunique()
    chosen = chosen_runs(runs)
    training = pd.DataFrame([_training(record) for record in chosen["record"]], index=chosen.index)
    table = chosen.join(training).groupby(CELL)[list(training)].first()
    of_texts = chosen["record"].map(is_of_texts)  # whose scores have a table of their own
    scores = _mean_and_deviation(chosen.assign(score=chosen["score"].mask(of_texts)))
    table = table.assign(
        **{"seeds": scores["size"], "score (%)": scores.apply(score_text, axis=1), "settings tried": tried}
    ).reset_index()
    columns = ["backbone", "task", "method", *table.columns[len(CELL) :]]
    return in_task_order(table)[columns]


def loss_table(records: Sequence[CompleteRecord]) -> pd.DataFrame:
    """Returns the training loss of runs: a row a run, a column an epoch."""
    rows = [
        {
            "backbone": backbone,
            "method": method_label(record),
            "task": task,
            "learning rate": record.config.training.learning_rate,
            "seed": record.config.seed,
            **{f"epoch {epoch.epoch:g}": rounded(epoch.train_loss, 3) for epoch in record.scores.history},
        }
        for record, backbone, task in zip(records, backbone_labels(records), task_labels(records), strict=True)
        if record.scores is not None
    ]
    return in_method_order(pd.DataFrame(rows).fillna(DASH)) if rows else pd.DataFrame()


def score_texts(groups: Any, digits: int = 1) -> pd.Series:
    """Writes the scores of each group of a column of them: mean, deviation and number."""
    cells = groups.agg(["mean", "std", "count", "size"])
    return pd.Series([score_text(cell, digits) for _, cell in cells.iterrows()], index=cells.index, dtype=object)


def score_text(cell: pd.Series, digits: int = 1) -> str:
    """Writes `mean` and `std` of one cell, of whose runs (`size`) so many (`count`) have a score that is defined."""
    defined, seeds = int(cell["count"]), int(cell["size"])
    if defined == 0:
        return DASH
    mean = f"{cell['mean']:.{digits}f}" + ("" if defined == 1 else f" ± {cell['std']:.{digits}f}")
    if defined < seeds:
        return f"{mean} (n={defined} of {seeds})"
    return mean if seeds == 1 else f"{mean} (n={seeds})"


def _block(backbone: str, runs: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of one backbone: its methods, then what is published."""
    cells = _mean_and_deviation(runs).droplevel("backbone")
    methods = in_method_order(runs[["backbone", "method"]].drop_duplicates())["method"]
    means = cells["mean"].unstack("task").reindex(methods)
    means = pd.concat([means, published_scores(runs)])
    texts = cells.apply(score_text, axis=1).unstack("task").reindex(means.index).fillna(_formatted(means, "{:.1f}"))
    return texts.join(_summary(means, runs)).rename_axis("method").reset_index().assign(backbone=backbone)


def _summary(means: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Returns, for each row of one backbone's means, what sums it up."""
    made_up = {run["task"] for run in runs.to_dict("records") if run["record"].data.synthetic}
    average = means[[task for task in means if task not in made_up]].mean(axis=1, skipna=False)
    seeds = score_texts(averages(runs).groupby("method")["score"])
    shares = runs["record"].map(lambda record: 100 * record.parameters.trainable / record.parameters.total)
    trainable = shares.groupby(runs["method"]).median()  # tasks differ in their heads
    ran = means.index.isin(runs["method"])
    differences = {
        column: _formatted((average - average.get(other, math.nan))[ran & (means.index != other)], "{:+.1f}")
        for column, other in _DIFFERENCES.items()
    }
    return pd.DataFrame(
        {
            "average": _formatted(average, "{:.1f}").where(~average.index.isin(seeds.index), seeds),
            **differences,
            "trainable (%)": _formatted(trainable, "{:.2f}"),
        },
        index=means.index,
    )


def _formatted(numbers: Any, form: str) -> Any:
    """Writes the numbers of a series or frame; what is missing stays missing."""
    return numbers.map(form.format, na_action="ignore")


def _mean_and_deviation(runs: pd.DataFrame) -> pd.DataFrame:
    return runs.groupby(CELL)["score"].agg(["mean", "std", "count", "size"])


def _training(record: CompleteRecord) -> dict[str, str | int | float]:
    training = record.config.training
    return {
        "learning rate": training.learning_rate,
        "batch size": training.batch_size * training.gradient_accumulation * (training.processes or 1),
        "epochs": training.epochs if training.max_steps is None else f"{training.max_steps} steps",
    }
