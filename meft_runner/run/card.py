"""The model card of a run, from its record: what it is, how to load it, what it scores and needs, what made it.

It names no file or folder of the machine that the run was made on.
"""

import hashlib
import re
from collections.abc import Iterator

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData

from meft_runner.config import (
    FullSettings,
    Head,
    LanguageSettings,
    PeftSettings,
    Settings,
    SplitSettings,
    WeightForm,
)
from meft_runner.config.fields import as_typed, hindrance, settings_of
from meft_runner.config.methods import with_reversal
from meft_runner.errors import listed
from meft_runner.records.schema import Record
from meft_runner.run.beginning import class_names
from meft_runner.run.console import run_table
from meft_runner.run.loading import loading
from meft_runner.run.portable import base_name

TAG = "meft-runner"  # by which the hub lists them
_PIPELINES = {
    Head.classification: "text-classification",
    Head.lm: "text-generation",
    Head.span: "question-answering",
    Head.image: "image-classification",
}
_SEAL = re.compile(r"\n<!-- sha256 of what the run has written above: ([0-9a-f]{64}) -->\n\Z")


def model_card(settings: Settings, record: Record, repository: str | None = None) -> str:
    """Returns the text of a model card, in the hub's form.

    Args:
        settings: of the run.
        record: of the run, with its scores.
        repository: where the card will stand on the hub, owner/name; None for a folder.
    """
    backbone, task = settings.backbone, settings.task
    reversal = getattr(settings.method, "reversal", None)
    method = with_reversal(settings.method.name, reversal and reversal.name)
    parts = [
        f"---\n{_metadata(settings, record).to_yaml()}\n---",
        f"# {backbone.name} on {task.name}, {method}",
        _what(settings, record, method),
        "## How to load it",
        loading(settings, record, repository),
        "## Figures",
        "Scores are those of the development rows.",
        _table(run_table(record)),
        "## Rows",
        _rows(settings, record),
        "## Settings",
        "\n".join(["```text", *_settings(settings), "```"]),
        "## Made with",
        _made_with(record),
    ]
    text = "\n\n".join(parts) + "\n"
    return f"{text}\n<!-- sha256 of what the run has written above: {_digest(text)} -->\n"


def is_as_written(card: str) -> bool:
    """Tells whether a model card is as a run has written it, and no user has edited it since."""
    seal = _SEAL.search(card)
    return seal is not None and seal[1] == _digest(card[: seal.start()])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _metadata(settings: Settings, record: Record) -> ModelCardData:
    repository = _data_set(settings)
    task = settings.task.name
    pipeline = _PIPELINES[settings.task.head]
    best = None if record.scores is None else record.scores.best_epoch
    results = [
        EvalResult(pipeline, repository or task, task, metric_type=metric, metric_value=value)
        for metric, value in ({} if best is None else best.metrics).items()
        if value is not None
    ]
    peft = isinstance(settings.method, PeftSettings)
    return ModelCardData(
        base_model=base_name(settings),
        datasets=None if repository is None else [repository],
        eval_results=results or None,
        library_name="peft" if peft else TAG,
        model_name=f"{settings.backbone.name}-{task}-{settings.method.name}",
        pipeline_tag=pipeline,
        tags=[TAG, settings.method.name, *(["reversible"] if settings.method.reverses else [])],
    )


def _data_set(settings: Settings) -> str | None:
    """Returns the hub's name of the rows, None for local files and for rows that are made up."""
    task = settings.task
    local = any(notes.is_path(value) for key, value, notes in settings_of(settings) if key.startswith("task."))
    return task.hub if isinstance(task, SplitSettings | LanguageSettings) and not local else None


def _what(settings: Settings, record: Record, method: str) -> str:
    """Returns what was trained on what, in sentences."""
    commit, digest = (None, None) if record.weights is None else (record.weights.revision, record.weights.sha256)
    exact = f", commit `{commit}`" if commit else f", sha256 `{digest}`" if digest else ""
    name = base_name(settings)
    base = f"[{name}](https://huggingface.co/{name})" if name else "a model in a local folder"
    what = "all its weights" if isinstance(settings.method, FullSettings) else "without what stayed frozen"
    lines = [
        f"What fine-tuning with `method={method}` has trained of {base} (`backbone={settings.backbone.name}`{exact}), "
        f"{what}."
    ]
    if settings.backbone.weights is not WeightForm.fp32:
        lines.append(f"The frozen weights were held as {settings.backbone.weights.name} while it trained.")
    if record.data is not None and record.data.synthetic:
        lines.append("**The rows are made up: this is a demonstration.**")
    if record.origin is not None:
        lines.append(f"It began with the trained weights of the run `{record.origin.run}`.")
    return " ".join(lines)


def _rows(settings: Settings, record: Record) -> str:
    assert record.data is not None
    data, repository = record.data, _data_set(settings)
    commit = f", commit `{data.revision}`" if data.revision else ""
    source = f"[{repository}](https://huggingface.co/datasets/{repository}){commit}" if repository else "local files"
    splits = pd.DataFrame(
        [(name, split.rows, split.fingerprint) for name, split in data.splits.items()],
        columns=["split", "rows", "fingerprint"],
    )
    classes = class_names(record, settings.task)
    labels = "\n\n" + "\n".join(["```text", *(f"{i}: {listed([name])}" for i, name in enumerate(classes)), "```"])
    what = "made up by the program" if data.synthetic else f"of {source}"
    return f"Task `{settings.task.name}`, rows {what}.\n\n{_table(splits)}{labels if classes else ''}"


def _settings(settings: Settings) -> Iterator[str]:
    """Yields the settings that have had an effect, as they are typed, but for files and folders."""
    for key, value, notes in settings_of(settings):
        name = key.rpartition(".")[2]
        untyped = notes.fixed is not None and name != "name"  # a file of conf/ or method.start_from sets it
        unsaid = notes.beside or untyped or notes.is_path(value) or value is None
        if not unsaid and hindrance(settings, notes) is None:
            yield f"{key.removesuffix('.name')}={as_typed(value)}"


def _made_with(record: Record) -> str:
    made = record.environment
    versions = ", ".join(f"{name} {version}" for name, version in made.packages.items() if version)
    commit = "" if made.git is None else f" (commit `{made.git.commit[:12]}`{', changed' if made.git.dirty else ''})"
    return f"Run `{record.identity}`, on {made.device}: {versions}, Python {made.python}{commit}."


def _table(table: pd.DataFrame) -> str:
    return str(table.to_markdown(index=False, disable_numparse=True))
