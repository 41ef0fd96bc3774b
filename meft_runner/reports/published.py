"""Published figures, read from published.yaml, that tables show beside ours."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pandas as pd
from omegaconf import MISSING, OmegaConf

from meft_runner.records.schema import CompleteRecord

PUBLISHED = Path(__file__).with_name("published.yaml")
_HEADS_AND_WORDS = 0.1  # the share of a model's parameters that a head, added words and the like make at most


@dataclass
class Sourced:
    """Something that somebody else reports.

    Attributes:
        source: where it stands, in words.
        address: where that is to be found.

    Raises:
        ValueError: it has no source.
    """

    source: str = MISSING
    address: str = MISSING

    def __post_init__(self) -> None:
        if not self.source.strip() or not self.address.strip():
            raise ValueError("A published figure needs a source and its address.")


@dataclass
class PublishedScores(Sourced):
    """Development scores of full fine-tuning.

    Attributes:
        backbone: our name of the model.
        layers: how many it has, all stacks together.
        parameters: how many it has, without a task head.
        scores: for each task the metric and its value in percent.
    """

    backbone: str = MISSING
    layers: int = MISSING
    parameters: int = MISSING
    scores: dict[str, dict[str, float]] = MISSING

    @property
    def label(self) -> str:
        """What a table calls its row."""
        return f"full (published: {self.source})"

    def is_of(self, record: CompleteRecord) -> bool:
        """Tells whether a run is of this model, as far as its record can tell: of a folder that is by its size."""
        backbone, parameters = record.config.backbone, record.parameters
        if backbone.name != self.backbone or (backbone.repeat or 1) > 1:
            return False
        added = 0 if record.config.method.name == "full" else parameters.trainable
        return backbone.path is None or (
            parameters.layers in (None, self.layers)
            and math.isclose(parameters.total - added, self.parameters, rel_tol=_HEADS_AND_WORDS)
        )


@dataclass
class PublishedMemory(Sourced):
    """How much less activation memory MEFT needs.

    Attributes:
        less_than_full: in percent of that of full fine-tuning, at best.
    """

    less_than_full: float = MISSING

    @property
    def sentence(self) -> str:
        """The figure in words, with its source."""
        return f"Published: activation memory down by up to {self.less_than_full:g} % of full ({self.source})."


@dataclass
class Published:
    """All published figures.

    Attributes:
        full_fine_tuning: scores.
        rows: for each task how many there are to train on, and in the development split that gives the score.
        activation_memory: of MEFT.
    """

    full_fine_tuning: list[PublishedScores] = field(default_factory=list)
    rows: dict[str, list[int]] = MISSING
    activation_memory: PublishedMemory = MISSING


@cache
def read_published(path: Path = PUBLISHED) -> Published:
    """Reads published figures.

    Raises:
        omegaconf.errors.OmegaConfBaseException: a figure has no source, or something has no place here.
        ValueError: a source is blank.
    """
    loaded = OmegaConf.merge(OmegaConf.structured(Published), OmegaConf.load(path))
    published = OmegaConf.to_object(loaded)
    assert isinstance(published, Published)
    return published


def published_scores(runs: pd.DataFrame) -> pd.DataFrame:
    """Returns what is published beside runs: a row a source, a column a task of a table; nan where nothing.

    That is where one of the runs is of a model of another size, or of not all rows of the task.

    Args:
        runs: of one backbone, with columns `task` and `record`.
    """
    rows = {
        one.label: {task: _score_beside(one, records) for task, records in runs.groupby("task")["record"]}
        for one in read_published().full_fine_tuning
    }
    return pd.DataFrame.from_dict(rows, orient="index", dtype=float).dropna(how="all")


def _score_beside(one: PublishedScores, records: Iterable[CompleteRecord]) -> float:
    """Returns the score that may stand beside all of some runs; nan if there is none."""
    found = {
        one.scores.get(record.config.task.name, {}).get(record.scores.metric)
        if record.scores is not None and one.is_of(record) and _of_all_rows(record) else None
        for record in records
    }  # fmt: skip
    score = found.pop() if len(found) == 1 else None
    return math.nan if score is None else score


def _of_all_rows(record: CompleteRecord) -> bool:
    task, splits = record.config.task, list(record.data.splits.values())
    if not splits:  # of an earlier version
        return task.data_dir is None and task.max_train_rows is None and task.max_eval_rows is None
    return [split.rows for split in splits[:2]] == read_published().rows.get(task.name)
