"""Forms in which rows are printed: a table on the terminal, JSON, CSV and Markdown."""

import json
from typing import Any

import pandas as pd

from meft_runner.config import Format
from meft_runner.memory_report.case import method_label
from meft_runner.reports.memory_tables import OF_FULL, in_unit, percent_of_full
from meft_runner.reports.tables import markdown
from meft_runner.run.console import print_table

# Of what is compared. Full fine-tuning trains float32 weights, whatever form those of others have.
_SHAPE = ["backbone", "batch_size", "length", "depth", "precision", "attention", "head", "source"]
_BRIEF = [
    "backbone", "method", "batch", "length", "depth", "precision", "attention", "weights", "head", "source",
    "parameters (GiB)", "gradients (GiB)", "optimizer (GiB)", "activations (GiB)", OF_FULL, "retained (GiB)",
    "host (GiB)", "peak (GiB)", "dominant",
]  # fmt: skip


def print_rows(rows: list[dict[str, Any]], form: Format, table: pd.DataFrame, short: pd.DataFrame, title: str) -> None:
    """Prints rows in the form that was asked for.

    Args:
        rows: as they are, with figures in bytes: for JSON and CSV.
        form: what was asked for.
        table: the rows for readers: for Markdown.
        short: as much of it as a terminal has room for.
        title: of the terminal's table.
    """
    match form:
        case Format.json:
            print(json.dumps(rows, indent=2))
        case Format.csv:
            print(pd.DataFrame(rows).to_csv(index=False), end="")
        case Format.markdown:
            print(markdown(table), end="")
        case _:
            print_table(short, title=title)


def method_labels(table: pd.DataFrame) -> list[str]:
    """Returns what readers see of the methods of rows, with what sets a row apart from others of its method."""
    columns = (table[name] for name in ("method", "checkpointing", "reversal", "offload"))
    return [method_label(*each) for each in zip(*columns, strict=True)]


def shown(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Returns rows as a table in GiB, with activations in percent of full fine-tuning of the same shape."""
    made = pd.DataFrame(rows)
    table = in_unit(made, "GiB")
    is_full = (made["method"] == "full") & (made["checkpointing"] == "false")
    table[OF_FULL] = percent_of_full(made["activations_bytes"], is_full, made[_SHAPE])
    return table.round({column: 3 for column in map(str, table) if "GiB" in column} | {OF_FULL: 1})


def brief(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the columns of a table that a terminal has room for."""
    table = table.rename(columns={"batch_size": "batch", "retained after forward (GiB)": "retained (GiB)"})
    same = [column for column in _BRIEF[2:10] if table[column].nunique() == 1]
    kept = [column for column in _BRIEF if column in table and column not in same]
    return table.assign(method=method_labels(table))[kept]
