"""What a search tries next: Optuna suggests it from the scores so far."""

import json
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from meft_runner.config.space import Dimension, Range
from meft_runner.sweeps.tried import Tried

_DIGITS = 3  # of a number from a range: the settings of a run are to be typed, and equal ones are one run
_STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "running": TrialState.RUNNING,
}


def suggest(space: Sequence[Dimension], tried: Sequence[Tried], seed: int, count: int) -> list[dict[str, Any]]:
    """Returns the settings of the next trials, values by key.

    They follow from the seed, the number of a trial and what was tried before: a search that goes on tries what it
    would have tried without a break.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for one in tried:
        study.add_trial(_as_optuna(space, one))
    found = []
    for number in range(len(tried), len(tried) + count):
        study.sampler = optuna.samplers.TPESampler(seed=(10_007 * seed + number) % 2**32, constant_liar=True)
        trial = study.ask()
        found.append({each.key: _value(each, trial) for each in space})
    return found


def _value(dimension: Dimension, trial: optuna.Trial) -> Any:
    if not isinstance(dimension, Range):
        return json.loads(trial.suggest_categorical(dimension.key, dimension.texts))
    if dimension.whole:
        return trial.suggest_int(dimension.key, int(dimension.low), int(dimension.high), log=dimension.log)
    value = trial.suggest_float(dimension.key, dimension.low, dimension.high, log=dimension.log)
    return min(max(float(f"{value:.{_DIGITS}g}"), dimension.low), dimension.high)


def _as_optuna(space: Sequence[Dimension], one: Tried) -> FrozenTrial:
    state = _STATES[one.status]
    if state is TrialState.COMPLETE and one.score is None:  # it is not defined
        state = TrialState.FAIL
    return create_trial(
        state=state,
        value=one.score if state is TrialState.COMPLETE else None,
        params={each.key: _param(each, one.settings[each.key]) for each in space},
        distributions={each.key: _distribution(each) for each in space},
        intermediate_values={epoch: score for epoch, score in enumerate(one.history) if score is not None},
    )


def _param(dimension: Dimension, value: Any) -> Any:
    return value if isinstance(dimension, Range) else json.dumps(value, ensure_ascii=False)


def _distribution(dimension: Dimension) -> BaseDistribution:
    if not isinstance(dimension, Range):
        return CategoricalDistribution(dimension.texts)
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
