"""Tables of memory, made from records alone."""

from collections.abc import Sequence

import pandas as pd

from meft_runner.records.schema import CompleteRecord
from meft_runner.reports.labels import backbone_label, in_method_order, layer_count, method_label
from meft_runner.run.console import MIB

_SETTING = ["backbone", "batch", "length", "precision", "attention", "source"]  # what is compared must have in common
_BRIEF = [
    "backbone", "method", "batch", "length", "activations (MiB)", "activations (% of full)",
    "retained after forward (MiB)", "peak (MiB)",
]  # fmt: skip


def memory_runs(records: Sequence[CompleteRecord]) -> pd.DataFrame:
    """Returns the memory of runs in MiB and their step time in seconds: a row a run that measured it."""
    return pd.DataFrame(
        {
            "backbone": backbone_label(record),
            "name": record.config.backbone.name,
            "method": method_label(record),
            "batch": record.memory.batch_size,
            "length": record.memory.length,
            "precision": record.config.training.precision,
            "attention": record.config.backbone.attention,
            "source": record.memory.source,
            "layers": layer_count(record),
            "trainable parameters": record.parameters.trainable,
            **{_mib_name(key): value / MIB for key, value in record.memory.sizes().items()},
            "median step (s)": record.timing and record.timing.median_step_seconds,
        }
        for record in records
        if record.memory is not None
    )


def activations_mib(record: CompleteRecord) -> float | None:
    """Returns the activation memory of a run in MiB; None where it was not measured."""
    return None if record.memory is None else record.memory.activations_bytes / MIB


def memory_table(records: Sequence[CompleteRecord]) -> pd.DataFrame:
    """Returns memory in MiB and step time: a row a backbone, method and batch shape, beside full fine-tuning."""
    runs = memory_runs(records)
    if runs.empty:
        return runs
    numbers = runs.drop(columns=["name", "layers"]).astype({"median step (s)": float})
    table = numbers.groupby(["backbone", "method", *_SETTING[1:]], sort=False).median().reset_index()
    full = table[table["method"] == "full"].set_index(_SETTING)["activations (MiB)"]
    of_full = full.reindex(pd.MultiIndex.from_frame(table[_SETTING])).to_numpy()
    table["activations (% of full)"] = 100 * table["activations (MiB)"] / of_full
    table["trainable parameters"] = table["trainable parameters"].astype(int)
    digits = {column: 1 for column in map(str, table) if "MiB" in column or "%" in column}
    return in_method_order(table.round(digits | {"median step (s)": 3}))


def brief(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the columns of a memory table that a terminal has room for."""
    return table[_BRIEF]


def _mib_name(key: str) -> str:
    return key.removesuffix("_bytes").replace("_", " ") + " (MiB)"
