"""What a run and the other commands print: tables on the terminal."""

import sys
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from meft_runner.records.record import Record

DASH = "-"
MIB = 2**20
_FILE_WIDTH = 160  # characters a line where output does not go to a terminal


def run_table(record: Record) -> pd.DataFrame:
    """Returns one run's figures, a row each, with units in their names."""
    scores, memory, timing, reversal = (record[key] for key in ("scores", "memory", "timing", "reversal"))
    total, trainable = record["parameters"]["total"], record["parameters"]["trainable"]
    rows = {
        f"best {scores['metric']} (%)": f"{100 * scores['best']:.1f}",
        f"final {scores['metric']} (%)": f"{100 * scores['final']:.1f}",
        "trainable parameters": f"{trainable:,} ({100 * trainable / total:.2f} % of {total:,})",
        "activations (MiB)": f"{memory['activations_bytes'] / MIB:.1f}",
        "retained after forward (MiB)": f"{memory['retained_after_forward_bytes'] / MIB:.1f}",
        "peak (MiB)": f"{memory['peak_bytes'] / MIB:.1f}",
        "memory measured": f"{memory['source']}, batch {memory['batch_size']} x length {memory['length']}",
        "median step (s)": rounded(timing["median_step_seconds"], 3),
        "tokens per second": rounded(timing["tokens_per_second"], 0),
        "reversal check": _reversal_text(reversal),
    }
    return pd.DataFrame({"figure": rows.keys(), "value": rows.values()})


def print_table(table: pd.DataFrame, title: str) -> None:
    """Prints a table on the terminal."""
    shown = Table(title=title, title_justify="left")
    for column, side in zip(table, sides(table), strict=True):
        shown.add_column(str(column), justify="right" if side == "right" else "left", overflow="fold")
    for row in texts(table).itertuples(index=False):
        shown.add_row(*row)
    Console(width=None if sys.stdout.isatty() else _FILE_WIDTH).print(shown)


def texts(table: pd.DataFrame) -> pd.DataFrame:
    """Returns a table whose cells are what is shown: a dash for what is missing."""
    return table.astype(object).map(lambda value: DASH if pd.isna(value) else str(value))


def sides(table: pd.DataFrame) -> list[str]:
    """Returns for each column where its cells stand: numbers, with what follows them, on the right."""
    cells = texts(table)
    return ["right" if cells[column].str.match(r"[-+]?\d|-$").all() else "left" for column in cells]


def rounded(value: float | None, digits: int) -> str:
    """Writes a number with so many digits, and a dash for none."""
    return DASH if value is None else f"{value:.{digits}f}"


def _reversal_text(reversal: dict[str, Any] | None) -> str:
    if reversal is None:
        return "not reversible"
    if reversal["mode"] == "stored":
        return "stored: nothing to reverse"
    if reversal["mode"] == "float":
        error = "not finite" if reversal["max_error"] is None else f"{reversal['max_error']:.3g}"
        return f"float: rebuilt streams up to {error} apart in {reversal['checked_steps']} steps"
    return f"exact: {reversal['mismatches']} mismatches in {reversal['checked_steps']} steps"
