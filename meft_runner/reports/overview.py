"""Everything that is made from the records of a folder: tables, figures, and the report of both."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from meft_runner.config import TablesSettings
from meft_runner.errors import UserError, printable
from meft_runner.records.record import read_folder
from meft_runner.records.schema import CompleteRecord
from meft_runner.records.search import read_searches
from meft_runner.reports import (
    ablation_figures,
    memory_figures,
    memory_tables,
    reversal_study,
    score_figures,
    score_tables,
    search,
    starting_point,
)
from meft_runner.reports.figures import FORMATS, save_figure
from meft_runner.reports.published import read_published
from meft_runner.reports.replacing import replacing
from meft_runner.reports.report import ReportFigure, ReportTable, write_report
from meft_runner.reports.selection import trained_twice
from meft_runner.reports.tables import FORMS, write_tables
from meft_runner.run.console import print_table

_REPORT = "report.html"
_PRINTED = ("scores", "qa", "language", "memory", "starting_point", "plain_model", "reversal", "trials")
_BRIEF = {"memory": memory_tables.brief, "starting_point": starting_point.brief, "trials": search.brief}


@dataclass(frozen=True)
class TablePart:
    """A table of the overview.

    Attributes:
        title: on the terminal and in the report.
        note: what a reader has to know to read it.
        make: returns it of records, or of searches; empty where they hold nothing for it.
    """

    title: str
    note: str
    make: Callable[[Any], pd.DataFrame]


@dataclass(frozen=True)
class FigurePart:
    """A figure of the overview.

    Attributes:
        caption: in the report.
        make: returns it of records, or of searches; None where they hold nothing for it.
    """

    caption: str
    make: Callable[[Any], Figure | None]


# By the names of their files.
TABLES = {
    "scores": TablePart(
        "Best development scores (%)",
        "Best epoch; mean ± standard deviation over n seeds. Of several settings of a method, the one with the most "
        "seeds is shown, and of several such the one with the best mean. The average is over all tasks of a backbone "
        "whose rows are not made up, with the deviation of the seeds' averages; a method that lacks one of them has "
        "none. A published score stands only beside runs of all rows of a task and a model of the size that is named.",
        score_tables.glue_table,
    ),
    "qa": TablePart(
        "Best development scores, question answering (%)",
        "In the same form. acc: the answer with the largest log-likelihood is the right one.",
        score_tables.qa_table,
    ),
    "language": TablePart(
        "Texts, completions and conversations, at the best epoch",
        "Of the development rows' learnt tokens: loss a token in nats, perplexity, and the share that the model holds "
        "for the likeliest; where it was asked to answer, the share of answers that are exactly the expected ones. The "
        "best epoch is the one with the lowest loss. Other tokens of the same rows (task.max_length) are another task.",
        score_tables.language_table,
    ),
    "memory": TablePart(
        "Memory of a training step",
        "Measured before training, on rows padded to the length that is given; median of the runs. "
        + read_published().activation_memory.sentence,
        memory_tables.memory_table,
    ),
    "starting_point": TablePart(
        "Where methods start",
        "How far the first hidden states and outputs are from the pre-trained model's, relative to them; the bits that "
        "exact reversal keeps for an element of a layer, a stream's remainders below n taking log2 n, rounded up to 1, "
        "2, 4 or 8; and memory as above. The output distance is that of a task head which is not trained yet. A dash: "
        "no coupling, or not known.",
        starting_point.starting_table,
    ),
    "plain_model": TablePart(
        "Trained adapters in the plain model",
        "Layers were trained in a delay coupling; the same adapters on the model as it was pre-trained, without one: "
        "scores on the development rows, and how far the outputs are apart, relative to the plain ones.",
        starting_point.plain_table,
    ),
    "hyperparameters": TablePart(
        "Settings behind the scores",
        "The setting that the scores above are of, and how many settings were tried.",
        score_tables.hyperparameter_table,
    ),
    "reversal": TablePart(
        "Gradients of the reversal",
        "One step's gradients, layer by layer, against those of the same step with stored activations: relative error "
        "and cosine. The worst of several seeds.",
        reversal_study.reversal_table,
    ),
    "gradients_by_layer": TablePart(
        "Gradients of the reversal, layer by layer",
        "The same figures of every layer, the bottom one first. A dash: not finite, or no such layer.",
        reversal_study.gradients_by_layer,
    ),
    "training_loss": TablePart("Training loss", "Every run, by epoch.", score_tables.loss_table),
}
FIGURES = {
    "score_against_memory": FigurePart("Score against activation memory.", score_figures.score_against_memory),
    "score_against_distance": FigurePart(
        "Score against the distance of the first hidden states from those of the pre-trained model; a line is one "
        "method with several scales.",
        score_figures.score_against_distance,
    ),
    "average_against_memory": FigurePart(
        "Average score of the tasks against activation memory; a bar is one deviation of the averages of seeds.",
        score_figures.average_against_memory,
    ),
    "average_against_distance": FigurePart(
        "Average score of the tasks against the same distance.",
        score_figures.average_against_distance,
    ),
    "training_loss": FigurePart("Training loss, mean of the seeds.", score_figures.training_loss_curves),
    "score_by_epoch": FigurePart("Development score, mean of the seeds.", score_figures.score_curves),
    "memory_by_depth": FigurePart("Activation memory by depth.", memory_figures.memory_over_depth),
    "memory_by_length": FigurePart("Activation memory by length.", memory_figures.memory_over_length),
    "reversible_layers": FigurePart(
        "Memory and score by the number of reversible layers; the layers below them are frozen.",
        ablation_figures.reversible_layers,
    ),
    "initialisation": FigurePart(
        "Score by how far the first outputs are from those of the pre-trained model.",
        ablation_figures.initialisation_study,
    ),
    "reversal_by_layer": FigurePart(
        "Relative error of the gradient of each layer; 0 is the bottom one.", reversal_study.reversal_by_layer
    ),
    "reversal_by_depth": FigurePart(
        "Relative error of the gradient of the bottom layer, by depth.", reversal_study.reversal_by_depth
    ),
}


SEARCH_TABLES = {
    "trials": TablePart(
        "Searches over settings",
        "Every trial: the settings that were varied, its epochs, and its best development score. A pruned trial was "
        "stopped early, since complete ones were better at the same epoch; it stands in no other table.",
        search.trials_table,
    ),
}
SEARCH_FIGURES = {
    "trials": FigurePart(
        "Searches over settings: score by trial with the best one so far, and score by each setting.",
        search.search_figure,
    ),
}
_TABLES, _FIGURES = TABLES | SEARCH_TABLES, FIGURES | SEARCH_FIGURES


def make_overview(asked: TablesSettings) -> None:
    """Prints the tables of a folder of runs and, where asked to, writes all tables, figures and the report.

    Raises:
        UserError: there are no complete runs, or something cannot be written or is another's.
    """
    records = read_folder(Path(asked.output_dir))
    searches = read_searches(Path(asked.output_dir))
    for line in trained_twice(records):
        print(line, file=sys.stderr)
    tables = make_tables(records, searches)
    for name in _PRINTED:
        if name in tables:
            shown = _BRIEF[name](tables[name]) if name in _BRIEF else tables[name]
            print_table(shown, title=_TABLES[name].title)
    if asked.tables_dir is None:
        return
    folder = Path(asked.tables_dir)
    try:
        earlier = _write(asked, folder, records, tables, make_figures(records, searches))
    except OSError as error:
        file = error.filename2 or error.filename or "a file"  # the second one is what a temporary name was to become
        raise UserError(
            f"tables_dir={folder}: {file} cannot be written ({error.strerror}). Choose another folder, or mend that."
        ) from error
    if earlier:
        names = printable(", ".join(earlier))
        print(f"tables_dir={folder}: of an earlier call and not of these runs: {names}.", file=sys.stderr)


def make_tables(records: Sequence[CompleteRecord], searches: search.Searches | None = None) -> dict[str, pd.DataFrame]:
    """Returns every table that the records and searches hold something for."""
    tables = {name: part.make(records) for name, part in TABLES.items()}
    tables |= {name: part.make(searches or {}) for name, part in SEARCH_TABLES.items()}
    return {name: table for name, table in tables.items() if not table.empty}


def make_figures(records: Sequence[CompleteRecord], searches: search.Searches | None = None) -> dict[str, Figure]:
    """Returns every figure that the records and searches hold something for."""
    figures = {name: part.make(records) for name, part in FIGURES.items()}
    figures |= {name: part.make(searches or {}) for name, part in SEARCH_FIGURES.items()}
    return {name: figure for name, figure in figures.items() if figure is not None}


def _write(
    asked: TablesSettings,
    folder: Path,
    records: list[CompleteRecord],
    tables: dict[str, pd.DataFrame],
    figures: dict[str, Figure],
) -> list[str]:
    """Writes tables and figures and, where asked to, the report; returns names of what only earlier calls have made."""
    names = [f"{name}.{form}" for name in tables for form in FORMS]
    names += [f"{name}.{form}" for name in figures for form in FORMATS]
    names += [_REPORT] if asked.report else []
    with replacing(folder, names, asked.overwrite) as earlier:
        write_tables(tables, folder)
        pictures = {name: save_figure(figure, folder, name) for name, figure in figures.items()}
        if asked.report:
            write_report(
                folder / _REPORT,
                asked.output_dir,
                records,
                [ReportTable(_TABLES[name].title, _TABLES[name].note, table) for name, table in tables.items()],
                [ReportFigure(_FIGURES[name].caption, svg) for name, (_, svg) in pictures.items()],
            )
    return earlier
