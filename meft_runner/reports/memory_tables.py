"""Tables of memory, made from records alone."""

from collections.abc import Sequence

import pandas as pd

from meft_runner.config import TASKS, Head
from meft_runner.records.schema import CompleteRecord
from meft_runner.reports.labels import backbone_labels, in_method_order, layer_count, method_label, task_kind
from meft_runner.run.console import MIB

UNITS = {"MiB": MIB, "GiB": 1024 * MIB}
OF_FULL = "activations (% of full)"
SELDOM_APART = ["accumulation", "head"]  # columns that are left out where all rows have the same
_SETTING = ["backbone", "batch", "length", "precision", "attention", "source", *SELDOM_APART]  # of what is compared
_BRIEF = [
    "backbone", "method", "batch", "length", *SELDOM_APART, "activations (MiB)", OF_FULL,
    "retained after forward (MiB)", "peak (MiB)",
]  # fmt: skip


def memory_runs(records: Sequence[CompleteRecord]) -> pd.DataFrame:
    """Returns the memory of runs in MiB and their step time in seconds: a row a run that measured it."""
    runs = pd.DataFrame(
        {
            "backbone": backbone,
            "name": name,
            "method": method_label(record),
            "batch": record.memory.batch_size,
            "length": record.memory.length,
            "precision": record.config.training.precision,
            "attention": record.config.backbone.attention,
            "source": record.memory.source,
            "accumulation": record.config.training.gradient_accumulation,
            "head": _head(record),
            "layers": layer_count(record),
            "trainable parameters": record.parameters.trainable,
            **record.memory.sizes(),
            "median step (s)": record.timing and record.timing.median_step_seconds,
        }
        for record, backbone, name in zip(
            records, backbone_labels(records), backbone_labels(records, with_depth=False), strict=True
        )
        if record.memory is not None
    )
    return in_unit(runs, "MiB")


def activations_mib(record: CompleteRecord) -> float | None:
    """Returns the activation memory of a run in MiB; None where it was not measured."""
    return None if record.memory is None else record.memory.activations_bytes / MIB


def memory_table(records: Sequence[CompleteRecord]) -> pd.DataFrame:
    """Returns memory in MiB and step time: a row a backbone, method and batch shape, beside full fine-tuning.

    Runs that add up gradients of several passes have rows of their own, and so have other heads.
    """
    runs = memory_runs(records)
    if runs.empty:
        return runs
    numbers = runs.drop(columns=["name", "layers"]).astype({"median step (s)": float})
    table = numbers.groupby(["backbone", "method", *_SETTING[1:]], sort=False).median().reset_index()
    table[OF_FULL] = percent_of_full(table["activations (MiB)"], table["method"] == "full", table[_SETTING])
    table["trainable parameters"] = table["trainable parameters"].astype(int)
    digits = {column: 1 for column in map(str, table) if "MiB" in column or "%" in column}
    return in_method_order(without_equal(table.round(digits | {"median step (s)": 3})))


def brief(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the columns of a memory table that a terminal has room for."""
    return table[[column for column in _BRIEF if column in table]]


def without_equal(table: pd.DataFrame) -> pd.DataFrame:
    """Returns a table without those columns of `SELDOM_APART` that tell no rows apart."""
    equal = [column for column in SELDOM_APART if column in table and table[column].nunique() < 2]
    return table.drop(columns=equal)


def in_unit(table: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Returns a table whose columns of bytes are in one of `UNITS`: peak_bytes becomes "peak (GiB)".

    That of the host's memory is left out where nothing has been moved there.
    """
    if "host_bytes" in table and not table["host_bytes"].any():
        table = table.drop(columns="host_bytes")
    sizes = [column for column in map(str, table) if column.endswith("_bytes")]
    named = {column: f"{column.removesuffix('_bytes').replace('_', ' ')} ({unit})" for column in sizes}
    return table.assign(**{column: table[column] / UNITS[unit] for column in sizes}).rename(columns=named)


def percent_of_full(activations: pd.Series, is_full: pd.Series, setting: pd.DataFrame) -> pd.Series:
    """Returns activations in percent of those of full fine-tuning, nan where there are none to compare with.

    Args:
        activations: in any unit.
        is_full: which rows are of full fine-tuning that recomputes nothing.
        setting: the columns that rows must have in common to be compared.
    """
    full = activations[is_full].set_axis(pd.MultiIndex.from_frame(setting[is_full]))
    full = full[~full.index.duplicated() & (full > 0)]
    return 100 * activations / full.reindex(pd.MultiIndex.from_frame(setting)).to_numpy()


def _head(record: CompleteRecord) -> str:
    """Returns what is on top of a model; of a language model the kind of task, since its loss is of few tokens or all.

    Heads of other numbers of classes are taken for one.
    """
    kind = task_kind(record)
    if kind not in TASKS:
        return "not known"
    head = TASKS[kind].head
    return kind if head is Head.lm else head.name
