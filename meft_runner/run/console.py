"""What a run and the other commands print: tables on the terminal."""

import math
import sys
from collections.abc import Callable, Iterable, Sequence

import pandas as pd
from rich.console import Console
from rich.table import Table

from meft_runner.config import PeftReversal
from meft_runner.records.schema import Record, Reversal, Scores

DASH = "-"
MIB = 2**20
_FILE_WIDTH = 160  # characters a line where output does not go to a terminal


def run_table(record: Record) -> pd.DataFrame:
    """Returns the figures of a run that has come to its end, a row each, with units in their names."""
    assert record.parameters is not None
    total, trainable = record.parameters.total, record.parameters.trainable
    rows: dict[str, str] = {}
    if record.scores is not None:
        rows |= _language_rows(record.scores) or {
            f"best {record.scores.metric} (%)": percent(record.scores.best),
            f"final {record.scores.metric} (%)": percent(record.scores.final),
        }
    rows["trainable parameters"] = f"{trainable:,} ({100 * trainable / total:.2f} % of {total:,})"
    if record.memory is not None:
        memory = record.memory
        rows["activations (MiB)"] = f"{memory.activations_bytes / MIB:.1f}"
        rows["retained after forward (MiB)"] = f"{memory.retained_after_forward_bytes / MIB:.1f}"
        rows["peak (MiB)"] = f"{memory.peak_bytes / MIB:.1f}"
        rows["memory measured"] = f"{memory.source}, batch {memory.batch_size} x length {memory.length}"
    if record.timing is not None:
        rows["median step (s)"] = rounded(record.timing.median_step_seconds, 3)
        rows["tokens per second"] = rounded(record.timing.tokens_per_second, 0)
    if record.gradients:
        rows["error at the bottom layer"] = _finite(record.gradients[0].error)
        rows["largest error of a layer"] = _worst([layer.error for layer in record.gradients], max)
        rows["smallest cosine of a layer"] = _worst([layer.cosine for layer in record.gradients], min)
    if record.plain_model is not None:
        score, language = record.plain_model.score, record.scores is not None and _language_rows(record.scores)
        if language and score:
            rows["best loss in the plain model"] = rounded(-math.log(score), 4)  # the score is the inverse perplexity
        else:
            rows["best score in the plain model (%)"] = percent(score)
        rows["plain and coupled outputs apart"] = _finite(record.plain_model.output_distance)
    if record.scores is None and record.start is not None:
        rows["outputs apart from pre-training"] = _finite(record.start.output_distance)
        rows["hidden states apart"] = _finite(record.start.hidden_distance)
    mode = record.config.method.reversal
    if record.scores is None and record.reversal is None and mode not in (None, PeftReversal.off.name):
        rows["reversal check"] = f"{mode}: no step was trained"
    else:
        rows["reversal check"] = _reversal_text(record.reversal)
    return pd.DataFrame({"figure": rows.keys(), "value": rows.values()})


def _language_rows(scores: Scores) -> dict[str, str]:
    """Returns what a language model has scored, in the usual units; nothing of other models."""
    best = scores.best_epoch
    if best is None or "perplexity" not in best.metrics:
        return {}
    rows = {"best loss": rounded(best.metrics.get("loss"), 4)}
    rows["final loss"] = rounded(scores.history[-1].metrics.get("loss"), 4)
    rows["perplexity of the best"] = rounded(best.metrics["perplexity"], 3)
    for name in ("token_accuracy", "exact_match"):
        if name in best.metrics:
            rows[f"{name} of the best (%)"] = percent(best.metrics[name])
    return rows


def print_table(table: pd.DataFrame, title: str) -> None:
    """Prints a table on the terminal."""
    shown = Table(title=title, title_justify="left")
    for column, side in zip(table, sides(table), strict=True):
        shown.add_column(str(column), justify="right" if side == "right" else "left", overflow="fold")
    for row in texts(table).itertuples(index=False):
        shown.add_row(*row)
    width = None if sys.stdout.isatty() else _FILE_WIDTH
    Console(width=width, markup=False, emoji=False).print(shown)  # a file may be called [bold].csv


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


def percent(score: float | None) -> str:
    """Writes a score, a fraction, in percent, and a dash for one that is not defined."""
    return DASH if score is None else f"{100 * score:.1f}"


def _finite(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"


def _worst(values: Sequence[float | None], which: Callable[[Iterable[float]], float]) -> str:
    """Writes the largest or smallest of all layers, which is no number where one layer's is none."""
    known = [value for value in values if value is not None]
    return _finite(which(known) if len(known) == len(values) else None)


def _reversal_text(reversal: Reversal | None) -> str:
    if reversal is None:
        return "not reversible"
    if reversal.mode == "stored":
        return "stored: nothing to reverse"
    if reversal.checked_steps == 0 and reversal.max_error == 0:  # as where all layers keep their activations
        return f"{reversal.mode}: no layer was reversed"
    if reversal.mode == "float":
        return f"float: rebuilt streams up to {_finite(reversal.max_error)} apart in {reversal.checked_steps} steps"
    return f"exact: {reversal.mismatches} mismatches in {reversal.checked_steps} steps"
