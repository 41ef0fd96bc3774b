"""What is known of a search's trials, and the pruner's limits that follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from meft_runner.records.schema import Record


@dataclass(frozen=True)
class Tried:
    """A trial as it is known.

    Attributes:
        settings: values by key.
        status: what became of it; one that never ran is running too.
        metric: of its score; None where there is none.
        score: the best one, a fraction; None where there is none.
        history: the score after each epoch, None where it is not defined.
    """

    settings: dict[str, Any]
    status: Literal["complete", "pruned", "failed", "running"]
    metric: str | None = None
    score: float | None = None
    history: list[float | None] = field(default_factory=list)

    def __str__(self) -> str:
        """Returns what became of it, in words."""
        return self.status if self.score is None else f"{self.status}, {self.metric} {self.score:.4f}"


def tried(settings: dict[str, Any], record: Record | None) -> Tried:
    """Returns a trial as the record of its run has it."""
    if record is None:
        return Tried(settings, "running")
    scores = record.scores
    if scores is None:
        return Tried(settings, record.status)
    history = [epoch.metrics.get(scores.metric) for epoch in scores.history]
    return Tried(settings, record.status, scores.metric, scores.best, history)


def limits(trials: Sequence[Tried], startup_trials: int, warmup_epochs: int) -> list[float | None]:
    """Returns after each epoch the score below which the median pruner rejects a trial; None where it rejects none.

    It is the median of complete trials' scores after the same epoch, as `optuna.pruners.MedianPruner` has it. Known
    before a trial begins, it needs no storage that runs on other machines would have to reach.
    """
    complete = [one.history for one in trials if one.status == "complete"]
    if len(complete) < startup_trials:
        return []
    epochs = range(max(map(len, complete), default=0))
    scores = [[history[epoch] for history in complete if len(history) > epoch] for epoch in epochs]
    defined = [[score for score in of_epoch if score is not None] for of_epoch in scores]
    return [median(found) if found and epoch >= warmup_epochs else None for epoch, found in enumerate(defined)]
