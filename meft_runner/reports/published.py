"""Published figures, read from published.yaml, that tables show beside ours."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pandas as pd
from omegaconf import MISSING, OmegaConf

PUBLISHED = Path(__file__).with_name("published.yaml")


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
        scores: for each task the metric and its value in percent.
    """

    backbone: str = MISSING
    scores: dict[str, dict[str, float]] = MISSING

    @property
    def label(self) -> str:
        """What a table calls its row."""
        return f"full (published: {self.source})"

    @property
    def by_column(self) -> dict[str, float]:
        """The scores by the columns of a table, such as "rte accuracy"."""
        return {f"{task} {metric}": value for task, one in self.scores.items() for metric, value in one.items()}


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
        activation_memory: of MEFT.
    """

    full_fine_tuning: list[PublishedScores] = field(default_factory=list)
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


def published_scores(backbone: str, tasks: list[str]) -> pd.DataFrame:
    """Returns what is published of a backbone, a row a source and a column for each of a table's; nan where nothing."""
    rows = {one.label: one.by_column for one in read_published().full_fine_tuning if one.backbone == backbone}
    return pd.DataFrame.from_dict(rows, orient="index").reindex(columns=tasks).dropna(how="all")
