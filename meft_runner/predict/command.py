"""`meft-predict`: a trained run on new rows, from what is asked to answers and scores."""

import logging
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from meft_runner.backbones.generation import generate, stream
from meft_runner.config import (
    AnswerSettings,
    ChoiceSettings,
    Head,
    ImageSettings,
    LanguageSettings,
    PredictSettings,
    SquadSettings,
)
from meft_runner.config.checks import check_environment
from meft_runner.config.mistakes import naming_paths
from meft_runner.errors import UserError
from meft_runner.memory import AUTOCAST
from meft_runner.predict.answering import Answering, Found
from meft_runner.predict.changes import changed_rows
from meft_runner.predict.choices import ask_choices
from meft_runner.predict.classes import ask_texts
from meft_runner.predict.forward import out_of_memory, progress, run_rows
from meft_runner.predict.images import ask_images, ask_split
from meft_runner.predict.language import USUAL_NEW_TOKENS, ask_language, prompt_tokens
from meft_runner.predict.rows import named, rows_of_file, rows_of_split, write_answers
from meft_runner.predict.spans import ask_spans
from meft_runner.predict.trained import Trained, find_run
from meft_runner.run.console import percent, print_table, rounded
from meft_runner.run.failures import explaining
from meft_runner.run.opening import load_processor
from meft_runner.run.quiet import quiet
from meft_runner.tasks.data import Row
from meft_runner.tasks.language import form_of
from meft_runner.tasks.language_rows import Placed


@dataclass(frozen=True)
class Answers:
    """What a run has answered.

    Attributes:
        rows: an answer for each row, in their order.
        scores: metrics as fractions, of the rows whose labels are known; empty where none is.
        scored: how many those are.
        note: how the rows of a split differ from those of the run; None where they do not.
    """

    rows: list[Row]
    scores: dict[str, float]
    scored: int
    note: str | None


def predict(asked: PredictSettings, paths: Mapping[str, str]) -> int:
    """Answers what is asked, prints the scores or the text that is generated, and returns the exit code.

    Raises:
        UserError: something that the user asked for or provided does not fit.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    check_environment()
    try:
        with quiet():
            if asked.prompt is not None:
                _continue(asked, paths)
            else:
                _show(asked, answer(asked, paths))
    except KeyboardInterrupt:
        print("interrupted: no answers are written.", file=sys.stderr)
        return 1
    return 0


def answer(asked: PredictSettings, paths: Mapping[str, str]) -> Answers:
    """Answers the rows of a file or a split.

    Args:
        asked: a run, and one of `input` and `split`.
        paths: where files of the run are now, by its settings that name them.

    Raises:
        UserError: something that the user asked for or provided does not fit.
    """
    trained = find_run(asked, paths)
    settings, device = trained.settings, _device()
    batch_size = asked.batch_size or settings.training.rows_scored_at_once
    new_tokens = _new_tokens(asked, trained)
    with naming_paths(settings), explaining(lambda: out_of_memory(batch_size)):
        processor = load_processor(settings, trained.source)
        rows, answering = _ask(asked, trained, processor)
        if asked.output is None and not answering.scored:
            known = "; ".join(["no row has a label to score", *answering.notes])
            raise UserError(f"output: not given, and {known}. Add output=FILE for the answers.")
        if asked.max_new_tokens is not None and not answering.prompts:
            raise UserError(f"max_new_tokens={asked.max_new_tokens}: no text is generated here. Leave it out.")
        note = None if asked.split is None else changed_rows(trained, asked.split, rows)
        _announce(trained, len(rows), answering)
        model = trained.load(len(trained.classes), device)
        autocast = AUTOCAST[settings.training.precision.name]
        with progress("answering", len(answering.inputs or ())) as advance:
            outputs = run_rows(model, answering, batch_size, autocast, advance)
        generated = _generated(model, processor, answering, new_tokens, autocast)
    found = Found(outputs, generated)
    scores = answering.scores(found) if answering.scored else {}
    return Answers(named(rows, answering.answers(found)), scores, answering.scored, note)


def _ask(asked: PredictSettings, trained: Trained, processor: Any) -> tuple[list[Placed], Answering]:
    """Returns the rows and what the task makes of them."""
    task, classes = trained.settings.task, trained.classes
    if isinstance(task, ImageSettings) and asked.split is not None:
        return ask_split(task, processor, classes, asked.split)
    form = form_of(task, processor) if isinstance(task, LanguageSettings) else None
    of_split = asked.split is not None
    rows = rows_of_split(task, str(asked.split), form) if of_split else rows_of_file(Path(str(asked.input)), task)
    if isinstance(task, ImageSettings):
        return rows, ask_images(task, processor, classes, rows, Path(str(asked.input)).parent)
    if isinstance(task, LanguageSettings):
        assert form is not None
        generating = asked.output is not None or (isinstance(task, AnswerSettings) and task.generate)
        return rows, ask_language(task, processor, rows, form, generating)
    if isinstance(task, ChoiceSettings):
        return rows, ask_choices(task, processor, rows)
    if isinstance(task, SquadSettings):
        where = f"input={asked.input}" if asked.split is None else f"split={asked.split}"
        return rows, ask_spans(task, processor, rows, where)
    return rows, ask_texts(task, processor, classes, rows)  # type: ignore[arg-type]  # all others are texts


def _generated(
    model: Any, tokenizer: Any, answering: Answering, new_tokens: int, autocast: torch.dtype | None
) -> list[str]:
    if not answering.prompts:
        return []
    with (
        progress("writing", len(answering.prompts)) as advance,
        torch.autocast(model.device.type, dtype=autocast, enabled=autocast is not None),
    ):
        return generate(model, tokenizer, answering.prompts, new_tokens, ends=answering.ends, advance=advance)


def _continue(asked: PredictSettings, paths: Mapping[str, str]) -> None:
    """Prints how a language model goes on with the prompt, a word at a time."""
    trained = find_run(asked, paths)
    task = trained.settings.task
    if task.head is not Head.lm:
        raise UserError(f"prompt: the run's model writes no texts (task={task.name}). Give rows by input=FILE.")
    assert isinstance(task, LanguageSettings | ChoiceSettings)
    tokenizer = load_processor(trained.settings, trained.source)
    tokens, ends = prompt_tokens(task, tokenizer, str(asked.prompt))
    device, autocast = _device(), AUTOCAST[trained.settings.training.precision.name]
    model = trained.load(0, device)
    if trained.note is not None:
        print(f"note: {trained.note}", file=sys.stderr)
    with (
        explaining(lambda: out_of_memory(1)),
        torch.autocast(device.type, dtype=autocast, enabled=autocast is not None),
    ):
        stream(model, tokenizer, tokens, _new_tokens(asked, trained), ends)


def _new_tokens(asked: PredictSettings, trained: Trained) -> int:
    task = trained.settings.task
    return asked.max_new_tokens or (task.max_new_tokens if isinstance(task, AnswerSettings) else USUAL_NEW_TOKENS)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _announce(trained: Trained, rows: int, answering: Answering) -> None:
    print(f"{trained.directory.name}: {rows:,} rows to answer, of which {answering.scored:,} have a label")
    for note in (trained.note, *answering.notes):
        if note is not None:
            print(f"note: {note}")


def _show(asked: PredictSettings, answers: Answers) -> None:
    """Writes the answers where that is asked for, and prints the scores."""
    if asked.output is not None:
        write_answers(Path(asked.output), answers.rows)
    if answers.scores:
        values = [_written(name, value) for name, value in answers.scores.items()]
        table = pd.DataFrame({"score": list(map(_titled, answers.scores)), "value": values})
        print_table(table, title=f"{answers.scored:,} rows with labels")
    if answers.note is not None:
        print(f"note: {answers.note}")
    if asked.output is not None:
        print(f"{len(answers.rows):,} answers: {asked.output}")


def _titled(name: str) -> str:
    return name if _is_number(name) else f"{name} (%)"


def _written(name: str, value: float) -> str:
    shown = value if math.isfinite(value) else None
    return rounded(shown, 4) if _is_number(name) else percent(shown)


def _is_number(name: str) -> bool:
    """Tells whether a metric is no share, so that it is not written in per cent."""
    return "loss" in name or name == "perplexity"
