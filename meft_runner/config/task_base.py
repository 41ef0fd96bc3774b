"""What all kinds of tasks have in common, and what those of a published data set have."""

from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

from omegaconf import MISSING

from meft_runner.config.fields import COUNT, setting

Head = Enum("Head", ["classification", "lm", "span", "image"])  # what a model is to do
Metric = Enum("Metric", ["accuracy", "f1", "matthews", "pearson", "spearman"])

FROM_THE_HUB = {"task.data_dir": (None,)}
_OTHER_ROWS = "task.data_dir=DIR reads other rows."


@dataclass
class TaskSettings:
    """A data set, how its rows become inputs, and how answers are scored.

    Attributes:
        name: what is typed.
        max_train_rows: rows of the training split that are used; None for all.
        max_eval_rows: rows of each development split that are used; None for all.
    """

    head: ClassVar[Head]  # what a model is to do for tasks of this kind
    version: ClassVar[int]  # of what rows become; raised when the same rows become other model inputs
    name: str = setting(MISSING, fixed="Choose one with task=NAME.")
    max_train_rows: int | None = setting(None, COUNT)
    max_eval_rows: int | None = setting(None, COUNT)


@dataclass
class SplitSettings(TaskSettings):
    """A published data set, which comes in splits.

    Attributes:
        hub: repository on the data hub.
        hub_config: configuration of that repository.
        revision: commit, branch or tag of that repository; None for the newest.
        data_dir: folder with `<split>.jsonl` files that takes the hub's place.
        train_split: name of the training split.
        eval_splits: names of the development splits; the first gives the score.
    """

    hub: str = setting(MISSING, only=FROM_THE_HUB, fixed=_OTHER_ROWS)
    hub_config: str | None = setting(None, only=FROM_THE_HUB, fixed=_OTHER_ROWS)
    revision: str | None = setting(None, only=FROM_THE_HUB)
    data_dir: str | None = setting(None, path=True)
    train_split: str = "train"
    eval_splits: list[str] = field(default_factory=lambda: ["validation"])
