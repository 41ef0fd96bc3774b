"""The report of `meft-memory`: cases made of what was asked, and their rows, figures and answers."""

import json
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from hydra import compose, initialize_config_dir

from meft_runner.backbones import positions
from meft_runner.config import METHODS, Format, Head, MemorySettings, MethodSettings, Settings, Sweep, checks
from meft_runner.config.compatibility import services
from meft_runner.errors import UserError
from meft_runner.memory_report import cases as laboratory
from meft_runner.memory_report.cases import Case, model_config
from meft_runner.run.console import print_table

_GIB = 2**30
_DEPTHS = (6, 12, 24, 48, 96)
_COLUMNS = {Sweep.length: "length", Sweep.depth: "depth", Sweep.batch: "batch_size"}
_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_SHORTEST = 32  # tokens; lengths of a sweep double from here
_LARGEST_TOKENS = 2**14  # of a prediction on the way to an answer; beyond, memory is taken to grow evenly


def report(asked: MemorySettings, overrides: list[str], config_directory: str) -> None:
    """Answers what `meft-memory` was asked: a table, a curve, a timeline, or what fits.

    Args:
        asked: what to combine, and what to make of it.
        overrides: settings of a run that hold for every case, such as method.chunks=4.
        config_directory: the folder of conf/.

    Raises:
        UserError: a value is not known or does not fit.
    """
    budget = None if asked.fit is None else checks.parse_bytes(asked.fit)
    found = cases(asked, overrides, config_directory)
    folder, name = Path(asked.output_dir), "_".join(dict.fromkeys(case.backbone.name for case in found))
    if budget is not None:
        print_table(answers(found, budget), title=f"what fits into {asked.fit}, predicted")
    elif asked.timeline:
        _draw_timelines(found, folder, f"{name}_timeline")
    else:
        made = rows(found, asked.measure)
        _print(made, asked.format)
        if asked.sweep is not None:
            _draw_curve(made, _COLUMNS[asked.sweep], name, folder)


def _draw_timelines(found: list[Case], folder: Path, name: str) -> None:
    from meft_runner.reports.figures import save_figure, timeline_figure  # imports half a second; a table needs none

    timelines = {label(case): laboratory.trace(case) for case in found}
    _tell(save_figure(timeline_figure(timelines, "live bytes, predicted"), folder, name))


def _draw_curve(made: list[dict[str, Any]], over: str, name: str, folder: Path) -> None:
    from meft_runner.reports.figures import memory_curve, save_figure

    figure = memory_curve(pd.DataFrame(made), over, f"{name}: activations of a training step, predicted")
    _tell(save_figure(figure, folder, f"{name}_{over.removesuffix('_size')}"))


def _print(made: list[dict[str, Any]], form: Format) -> None:
    table = pd.DataFrame(made)
    match form:
        case Format.json:
            print(json.dumps(made, indent=2))
        case Format.csv:
            print(table.to_csv(index=False), end="")
        case Format.markdown:
            print(shown(made).to_markdown(index=False))
        case _:
            print_table(brief(shown(made)), title="memory of a training step")


def _tell(files: list[Path]) -> None:
    print(*(f"written: {file}" for file in files), sep="\n", file=sys.stderr)


def cases(asked: MemorySettings, overrides: list[str], config_directory: str) -> list[Case]:
    """Returns every combination of what was asked.

    Args:
        asked: lists of what to combine.
        overrides: settings of a run that hold for every case, such as method.chunks=4.
        config_directory: the folder of conf/.

    Raises:
        UserError: a backbone or method is not known, or a setting does not fit.
    """
    found = []
    with initialize_config_dir(config_directory, version_base="1.3"):
        for backbone, method in product(asked.backbone, asked.method):
            runs = [_compose(backbone, method, [*overrides, *own]) for own in _checkpointing(method, asked)]
            lengths = [None] if Head.image in runs[0].backbone.heads else asked.length
            for run, batch, length in product(runs, asked.batch, lengths):
                for precision, attention in product(asked.precision, asked.attention):
                    case = Case(run.backbone, run.method, batch, length, precision, attention, asked.accumulating)
                    found += _swept(case, asked.sweep)
    for case in found:
        case.config()  # refuses lengths that the model does not read
    return found


def _checkpointing(method: str, asked: MemorySettings) -> list[list[str]]:
    """Returns the overrides of each row that is asked of a method: one without any where it has no checkpointing."""
    if not hasattr(METHODS.get(method), "checkpointing"):
        return [[]]
    return [[f"method.checkpointing={str(on).lower()}"] for on in asked.checkpointing]


def _compose(backbone: str, method: str, overrides: list[str]) -> Settings:
    # Some task that the backbone does; Hydra itself refuses a name that it does not know.
    task = next((service.tasks[0] for service in services().values() if backbone in service.backbones), "demo")
    own = [override for override in overrides if _applies(override, method)]
    return checks.parse(compose("config", overrides=[f"backbone={backbone}", f"method={method}", f"task={task}", *own]))


def _applies(override: str, method: str) -> bool:
    """Tells whether a setting of methods is one of this method's; others of the table may have it."""
    group, _, name = override.partition("=")[0].partition(".")
    return group != "method" or name in {field.name for field in fields(METHODS.get(method, MethodSettings))}


def _swept(case: Case, sweep: Sweep | None) -> list[Case]:
    if sweep is Sweep.depth:
        return [replace(case, depth=depth) for depth in _DEPTHS]
    if sweep is Sweep.batch:
        return [replace(case, batch_size=batch) for batch in _BATCHES]
    if sweep is Sweep.length and case.length is not None:
        longest = positions(model_config(case.backbone))
        lengths = [_SHORTEST * 2**i for i in range(12)]
        return [replace(case, length=length) for length in lengths if length <= longest]
    return [case]


def label(case: Case) -> str:
    """Returns what a figure calls a case."""
    return f"{case.backbone.name} {case.method.name}{' + checkpointing' if case.checkpointing else ''}"


def rows(found: list[Case], measure: bool) -> list[dict[str, Any]]:
    """Returns a row a case, predicted, and with `measure` one measured beside it."""
    both = [laboratory.predict, *([laboratory.measure] if measure else [])]
    return [function(case) for case in found for function in both]


def shown(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Returns rows as a table in GiB, with activations in percent of full fine-tuning of the same shape."""
    table = pd.DataFrame(rows)
    sizes = [column for column in map(str, table) if column.endswith("_bytes")]
    shape = ["backbone", "batch_size", "length", "depth", "precision", "attention", "source"]
    full = table[(table["method"] == "full") & ~table["checkpointing"]].set_index(shape)["activations_bytes"]
    of_full = full[~full.index.duplicated()].reindex(pd.MultiIndex.from_frame(table[shape])).to_numpy()
    table["activations (% of full)"] = (100 * table["activations_bytes"] / of_full).round(1)
    table[sizes] = (table[sizes] / _GIB).round(3)
    return table.rename(columns={column: f"{column.removesuffix('_bytes')} (GiB)" for column in sizes})


def brief(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the columns of a table that a terminal has room for."""
    table = table.rename(columns={"batch_size": "batch", "retained_after_forward (GiB)": "retained (GiB)"})
    label = table["method"].where(~table["checkpointing"], table["method"] + " + checkpointing")
    columns = [
        "backbone", "method", "batch", "length", "depth", "precision", "attention", "source", "parameters (GiB)",
        "gradients (GiB)", "optimizer (GiB)", "activations (GiB)", "activations (% of full)", "retained (GiB)",
        "peak (GiB)", "dominant",
    ]  # fmt: skip
    same = [column for column in columns[2:8] if table[column].nunique() == 1]
    return table.assign(method=label)[[column for column in columns if column not in same]]


def answers(found: list[Case], budget: int) -> pd.DataFrame:
    """Returns for each case the largest batch at its length, and the largest length at its batch, within a budget.

    Args:
        found: the cases.
        budget: bytes.

    Raises:
        UserError: not even one row fits.
    """
    return pd.DataFrame([_answer(case, budget) for case in found])


def _answer(case: Case, budget: int) -> dict[str, Any]:
    def with_batch(batch: int) -> int:
        return laboratory.predict(replace(case, batch_size=batch))["peak_bytes"]

    def with_length(length: int) -> int:
        return laboratory.predict(replace(case, length=length))["peak_bytes"]

    smallest = with_batch(1)
    if smallest > budget:
        raise UserError(
            f"fit={budget / _GIB:.2f}GiB: {case.backbone.name} with {case.method.name} needs {smallest / _GIB:.2f} GiB "
            f"for a batch of 1, {(smallest - budget) / _GIB:.2f} GiB more. Take a shorter length or another method."
        )
    answer = {
        "backbone": case.backbone.name,
        "method": case.method.name,
        "checkpointing": case.checkpointing,
    }
    length = case.length or positions(case.config())
    answer[f"largest batch at length {length}"] = largest(with_batch, budget, known=_LARGEST_TOKENS // length)
    if case.length is not None:
        limit = positions(case.config())
        answer[f"largest length at batch {case.batch_size}"] = largest(with_length, budget, limit=limit)
    return answer


def largest(peak: Callable[[int], int], budget: int, known: int | None = None, limit: int | None = None) -> str:
    """Returns the largest size whose peak is within a budget.

    Memory grows with the size, evenly or faster, so a line through two predictions leads there quickly.

    Args:
        peak: predicts the bytes that a size needs.
        budget: bytes.
        known: the largest size that is predicted, where memory grows evenly; beyond, the line is followed.
        limit: the largest size there is; one of the two is given.

    Returns:
        The size; 0 where none fits, "about" a size beyond `known`, "all" at the limit.
    """
    top = max(known or limit or 0, 2)
    points = {size: peak(size) for size in (1, 2)}
    if points[1] > budget:
        return "0"
    low, high = 1, top + 1
    while high - low > 1:
        guess = min(max(_crossing(points, budget), low + 1), high - 1)
        points[guess] = peak(guess)
        low, high = (guess, high) if points[guess] <= budget else (low, guess)
    if low < top:
        return str(low)
    return f"{low} (all that the model reads)" if limit else f"about {_crossing(points, budget)}"


def _crossing(points: dict[int, int], budget: int) -> int:
    """Returns where the line through the two points next to the budget reaches it."""
    first, second = sorted(sorted(points, key=lambda size: abs(points[size] - budget))[:2])
    slope = max(1, (points[second] - points[first]) / (second - first))
    return int(first + (budget - points[first]) / slope)
