"""The results of a run, read off its model and its Trainer, in the form of the record."""

import math
from collections.abc import Collection
from typing import Any

from torch import nn
from transformers import TrainerState

from meft_runner.backbones.weights import count
from meft_runner.records.schema import Epoch, Parameters, Reversal, Scores, Timing
from meft_runner.reversible import ReversibleStack
from meft_runner.run.callbacks import StepTimes
from meft_runner.tasks import TaskData
from meft_runner.tasks.data import metric_suffix

_NO_METRICS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


def parameter_counts(model: nn.Module, layers: int) -> Parameters:
    """Returns how many numbers a model of so many layers has, and how many of them train."""
    counts = [(count(parameter), parameter.requires_grad) for parameter in model.parameters()]
    total, trainable = sum(n for n, _ in counts), sum(n for n, trains in counts if trains)
    return Parameters(total=total, trainable=trainable, layers=layers)


def scores_of(log: list[dict[str, Any]], data: TaskData) -> Scores:
    """Returns the score of the best and the last epoch, and every metric of every epoch, as fractions.

    A score that is not defined is None, and the best one only where no score is defined. In the Trainer's log,
    training and each development split have an entry an epoch.
    """
    by_step: dict[int, dict[str, Any]] = {}
    train_loss = _epoch_losses(log)
    for entry in log:
        metrics = split_metrics(entry, data.evaluation)
        if metrics:
            start = {"epoch": entry["epoch"], "step": entry["step"], "train_loss": train_loss.get(entry["step"])}
            by_step.setdefault(entry["step"], start).update(metrics)
    history = [Epoch.model_validate(entry) for entry in by_step.values()]
    values = [epoch.metrics[data.metric] for epoch in history]
    best = max((value for value in values if value is not None), default=None)
    return Scores(metric=data.metric, best=best, final=values[-1], history=history)


def _epoch_losses(log: list[dict[str, Any]]) -> dict[int, float]:
    """Returns each epoch's mean training loss by its last step; an interruption has logged a part of it before."""
    losses: dict[int, float] = {}
    total, start, logged = 0.0, 0, 0
    for entry in log:
        if "loss" in entry:
            total += entry["loss"] * (entry["step"] - logged)
            logged = entry["step"]
        elif logged > start:  # the epoch's scores
            losses[logged] = total / (logged - start)
            total, start = 0.0, logged
    return losses


def timing_of(times: StepTimes, state: TrainerState) -> Timing:
    """Returns the speed of a run's steps, the median of those of this process; evaluation is left out."""
    total, tokens = times.total, state.num_input_tokens_seen
    return Timing(
        median_step_seconds=times.median,
        tokens_per_second=tokens / total if tokens and total else None,
        train_seconds=total,
    )


def reversal_figures(stacks: list[ReversibleStack]) -> Reversal | None:
    """Returns what the reversible stacks found out about their own exactness; None without any."""
    if not stacks:
        return None
    errors = [stack.monitor.max_error for stack in stacks]
    return Reversal(
        mode=stacks[0].mode,
        checked_steps=max(stack.monitor.checked_steps for stack in stacks),
        mismatches=sum(stack.monitor.mismatches for stack in stacks),
        max_error=max(errors) if all(math.isfinite(error) for error in errors) else None,
    )


def split_metrics(entry: dict[str, Any], splits: Collection[str]) -> dict[str, float | None]:
    """Returns the metrics in an entry of the Trainer's log, named as records name them.

    Args:
        entry: with keys such as eval_validation_accuracy.
        splits: names of the development splits, the one that gives the score first.
    """
    found: dict[str, float | None] = {}
    for key, value in entry.items():
        split = max((each for each in splits if key.startswith(f"eval_{each}_")), key=len, default=None)
        if split is not None and not key.endswith(_NO_METRICS):
            name = key.removeprefix(f"eval_{split}_") + metric_suffix(list(splits), split)
            found[name] = value if math.isfinite(value) else None
    return found
