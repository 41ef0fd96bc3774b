"""What a search tries next, and which trials it ends early."""

import random

import optuna
import pytest

from meft_runner.config.space import Choice, Range
from meft_runner.sweeps.suggesting import suggest
from meft_runner.sweeps.tried import Tried, limits

SPACE = [
    Range("training.learning_rate", 1e-5, 1e-3, log=True, whole=False),
    Range("method.adapter_dim", 4, 64, log=True, whole=True),
    Choice("method.merge", ("[0.5, 0.5]", "null", '"learned"')),
]


def score(settings):
    return settings["training.learning_rate"] * 1000 * (settings["method.merge"] == "learned")


def search(trials, seed=1, space=SPACE, status=lambda number: "complete"):
    tried = []
    for number in range(trials):
        (settings,) = suggest(space, tried, seed, 1)
        tried.append(Tried(settings, status(number), "accuracy", score(settings), [0.0, score(settings)]))
    return tried


def test_what_is_tried_is_in_the_space_and_follows_from_the_seed():
    states = ["complete", "pruned", "failed", "running"]
    found = search(16, status=lambda number: states[number % 4])
    assert all(each.holds(one.settings[each.key]) for one in found for each in SPACE)
    assert all(float(f"{one.settings['training.learning_rate']:.3g}") in one.settings.values() for one in found)
    assert len({one.settings["training.learning_rate"] for one in found}) > 12
    assert search(16, status=lambda number: states[number % 4]) == found
    assert search(3, seed=2) != found[:3]


def test_later_trials_are_better_than_earlier_ones():
    found = [score(one.settings) for one in search(40)]
    assert sum(found[20:]) > 2 * sum(found[:20])


def test_trials_that_are_asked_for_together_differ():
    found = suggest(SPACE, search(12), 1, 4)
    assert len({one["training.learning_rate"] for one in found}) == 4


@pytest.mark.parametrize("startup", [1, 5])
@pytest.mark.parametrize("warmup", [0, 1, 2])
def test_limits_are_those_of_the_median_pruner(startup, warmup):
    draw = random.Random(10 * startup + warmup)
    pruner = optuna.pruners.MedianPruner(startup, warmup)
    for _ in range(60):
        earlier = [
            Tried({}, draw.choice(["complete", "complete", "pruned", "failed"]), "accuracy", 0.5,
                  [draw.choice([draw.random(), draw.random(), None]) for _ in range(draw.randint(1, 5))])
            for _ in range(draw.randint(0, 9))
        ]  # fmt: skip
        below = limits(earlier, startup, warmup)
        study = optuna.create_study(direction="maximize", pruner=pruner)
        for one in earlier:
            state = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}[one.status]
            study.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState[state], value=one.score if state == "COMPLETE" else None,
                    intermediate_values={epoch: value for epoch, value in enumerate(one.history) if value is not None},
                )
            )  # fmt: skip
        trial, best = study.ask(), 0.0
        for epoch in range(6):
            value = draw.random()
            best = max(best, value)
            trial.report(value, epoch)
            limit = below[epoch] if epoch < len(below) else None
            assert trial.should_prune() == (limit is not None and best < limit)
