"""Tables made from records alone: on the terminal, as Markdown and as CSV, from the same frame."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import MISSING, OmegaConf
from rich.console import Console
from rich.table import Table

from meft_runner.records.record import Record
from meft_runner.settings import BESIDE_THE_RESULT, METHODS, PUBLISHED_SCALES

_MIB = 2**20
_DASH = "-"
_FILE_WIDTH = 160  # characters a line where output does not go to a terminal


def method_label(record: Record) -> str:
    """Returns the method's name with what sets it apart from its defaults: "meft1 (reversal=float)"."""
    method = dict(record["config"]["method"])
    name = method.pop("name")
    schema = METHODS[name]
    defaults = OmegaConf.to_container(OmegaConf.structured(schema), enum_to_str=True)
    assert isinstance(defaults, dict)
    defaults |= dict(zip(("scale_1", "scale_2"), PUBLISHED_SCALES.get(name, ()), strict=False))
    changed = [f"{k}={v}" for k, v in method.items() if defaults.get(k, MISSING) not in (MISSING, v)]
    return f"{name} ({', '.join(changed)})" if changed else name


def task_label(record: Record) -> str:
    """Returns the task's name, marked where its rows are made up."""
    name = str(record["config"]["task"]["name"])
    return f"{name} (synthetic)" if record["data"]["synthetic"] else name


def run_table(record: Record) -> pd.DataFrame:
    """Returns one run's figures, a row each, with units in their names."""
    scores, memory, timing, reversal = (record[key] for key in ("scores", "memory", "timing", "reversal"))
    total, trainable = record["parameters"]["total"], record["parameters"]["trainable"]
    rows = {
        f"best {scores['metric']} (%)": f"{100 * scores['best']:.1f}",
        f"final {scores['metric']} (%)": f"{100 * scores['final']:.1f}",
        "trainable parameters": f"{trainable:,} ({100 * trainable / total:.2f} % of {total:,})",
        "activations (MiB)": f"{memory['activations_bytes'] / _MIB:.1f}",
        "retained after forward (MiB)": f"{memory['retained_after_forward_bytes'] / _MIB:.1f}",
        "peak (MiB)": f"{memory['peak_bytes'] / _MIB:.1f}",
        "memory measured": f"{memory['source']}, batch {memory['batch_size']} x length {memory['length']}",
        "median step (s)": _rounded(timing["median_step_seconds"], 3),
        "tokens per second": _rounded(timing["tokens_per_second"], 0),
        "reversal check": _reversal_text(reversal),
    }
    return pd.DataFrame({"figure": rows.keys(), "value": rows.values()})


def score_table(records: Sequence[Record]) -> pd.DataFrame:
    """Returns best development scores of complete runs in percent: a row a method, a column a task.

    Runs that differ in nothing but the seed are averaged ("mean +- standard deviation (n)"); of several
    settings of one method the one with the best mean is shown, as the paper chooses hyper-parameters.
    """
    runs = pd.DataFrame(
        {
            "backbone": record["config"]["backbone"]["name"],
            "method": method_label(record),
            "task": f"{task_label(record)} {record['scores']['metric']}",
            "settings": _settings_without_seed(record),
            "score": 100 * record["scores"]["best"],
        }
        for record in records
    )
    cells = runs.groupby(["backbone", "method", "task", "settings"], sort=False)["score"].agg(["mean", "std", "count"])
    best = cells.loc[cells.groupby(["backbone", "method", "task"], sort=False)["mean"].idxmax()]
    text = best.apply(_score_text, axis=1).droplevel("settings").unstack("task", fill_value=_DASH)
    return _in_method_order(text.reset_index().rename_axis(columns=None))


def memory_table(records: Sequence[Record]) -> pd.DataFrame:
    """Returns memory in MiB and step time of complete runs: a row a backbone, method and batch shape."""
    runs = pd.DataFrame(
        {
            "backbone": record["config"]["backbone"]["name"],
            "method": method_label(record),
            "batch": record["memory"]["batch_size"],
            "length": record["memory"]["length"],
            "precision": record["config"]["training"]["precision"],
            "attention": record["config"]["backbone"]["attention"],
            "source": record["memory"]["source"],
            "trainable parameters": record["parameters"]["trainable"],
            **{_mib_name(key): value / _MIB for key, value in record["memory"].items() if key.endswith("_bytes")},
            "median step (s)": record["timing"]["median_step_seconds"],
        }
        for record in records
    )
    setting = ["backbone", "batch", "length", "precision", "attention", "source"]
    table = runs.groupby(["backbone", "method", *setting[1:]], sort=False).median().reset_index()
    full = table[table["method"] == "full"].set_index(setting)["activations (MiB)"]
    of_full = full.reindex(pd.MultiIndex.from_frame(table[setting])).to_numpy()
    table["activations (% of full)"] = 100 * table["activations (MiB)"] / of_full
    table["trainable parameters"] = table["trainable parameters"].astype(int)
    return _in_method_order(
        table.round(
            {column: 1 for column in map(str, table) if "MiB" in column or "%" in column} | {"median step (s)": 3}
        )
    )


def loss_table(records: Sequence[Record]) -> pd.DataFrame:
    """Returns the training loss of complete runs: a row a run, a column an epoch."""
    rows = [
        {
            "backbone": record["config"]["backbone"]["name"],
            "method": method_label(record),
            "task": task_label(record),
            "seed": record["config"]["seed"],
            **{
                f"epoch {entry['epoch']:g}": _rounded(entry.get("train_loss"), 3)
                for entry in record["scores"]["history"]
            },
        }
        for record in records
    ]
    return _in_method_order(pd.DataFrame(rows).fillna(_DASH))


def brief(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the columns of a memory table that a terminal has room for."""
    return table[
        [
            "backbone",
            "method",
            "batch",
            "length",
            "activations (MiB)",
            "activations (% of full)",
            "retained after forward (MiB)",
            "peak (MiB)",
        ]
    ]


def write_tables(tables: dict[str, pd.DataFrame], directory: Path) -> list[Path]:
    """Writes each table as Markdown and CSV and returns the files."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, table in tables.items():
        for suffix, text in ((".md", table.to_markdown(index=False) + "\n"), (".csv", table.to_csv(index=False))):
            path = directory / f"{name}{suffix}"
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written


def print_table(table: pd.DataFrame, title: str) -> None:
    """Prints a table on the terminal."""
    shown = Table(title=title, title_justify="left")
    for column in table:
        shown.add_column(str(column), justify="right" if pd.api.types.is_numeric_dtype(table[column]) else "left")
    for row in table.itertuples(index=False):
        shown.add_row(*(_DASH if pd.isna(value) else str(value) for value in row))
    Console(width=None if sys.stdout.isatty() else _FILE_WIDTH).print(shown)


def _reversal_text(reversal: dict[str, Any] | None) -> str:
    if reversal is None:
        return "not reversible"
    if reversal["mode"] == "stored":
        return "stored: nothing to reverse"
    if reversal["mode"] == "float":
        error = "not finite" if reversal["max_error"] is None else f"{reversal['max_error']:.3g}"
        return f"float: rebuilt streams up to {error} apart in {reversal['checked_steps']} steps"
    return f"exact: {reversal['mismatches']} mismatches in {reversal['checked_steps']} steps"


def _settings_without_seed(record: Record) -> str:
    config = {key: value for key, value in record["config"].items() if key not in ("seed", *BESIDE_THE_RESULT)}
    return repr(config)


def _rounded(value: float | None, digits: int) -> str:
    return _DASH if value is None else f"{value:.{digits}f}"


def _score_text(cell: pd.Series) -> str:
    if cell["count"] == 1:
        return f"{cell['mean']:.1f}"
    return f"{cell['mean']:.1f} ± {cell['std']:.1f} (n={int(cell['count'])})"


def _mib_name(key: str) -> str:
    return key.removesuffix("_bytes").replace("_", " ") + " (MiB)"


def _in_method_order(table: pd.DataFrame) -> pd.DataFrame:
    order = ["full", "lora", "ia3", "meft1", "meft2", "meft3"]
    rank = table["method"].map(lambda label: (order.index(label.split()[0]), label))
    return table.assign(_rank=rank).sort_values(["backbone", "_rank"]).drop(columns="_rank").reset_index(drop=True)
