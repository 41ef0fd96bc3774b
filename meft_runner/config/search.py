"""A search over settings: what it may do, and which of its trials a run is."""

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from meft_runner.config.fields import COUNT, setting

SPACE = "hpo.space"  # what is searched, a setting each: hpo.space.training.learning_rate


@dataclass
class TrialSettings:
    """One trial of a search, as its run is told.

    Attributes:
        number: its place in the search, from 0; None for a run that is none of a search.
        settings: values of what is searched, by their keys.
        pruned_below: after each epoch, the score that the best one so far must not be below; None for any.
    """

    number: int | None = setting(None, beside=True)
    settings: dict[str, Any] = setting({}, beside=True)
    pruned_below: list[float | None] = setting([], beside=True)


@dataclass
class SearchSettings:
    """A search with Optuna: a sweep whose runs follow from the scores of those before them.

    Attributes:
        trials: how many runs there are, those of earlier calls included.
        sampler_seed: fixes what is tried.
        pruner: a trial stops after an epoch in which its best score is below the median of complete trials then.
        startup_trials: complete trials before one is pruned.
        warmup_epochs: epochs after which no trial is pruned.
        at_once: trials that are asked for together; None for as many as the launcher is known to run at once.
        space: what is searched: a range such as [1e-5, 1e-3, log], or a list of values, by the setting's key.
        trial: the one that a run is.
    """

    trials: int = setting(20, (1, 10_000), beside=True)
    sampler_seed: int = setting(1, (0, 2**32 - 1), beside=True)
    pruner: bool = setting(True, beside=True)
    startup_trials: int = setting(5, COUNT, beside=True)
    warmup_epochs: int = setting(1, (0, 10**6), beside=True)
    at_once: int | None = setting(None, (1, 1000), beside=True)
    space: dict[str, Any] = setting({}, beside=True)
    trial: TrialSettings = setting(TrialSettings(), beside=True, fixed="A search sets it for each of its runs.")


def with_values(config: DictConfig, values: dict[str, Any]) -> DictConfig:
    """Returns a copy of a composed config with other values of settings, by their keys.

    Raises:
        OmegaConfBaseException: there is no such setting, or a value is of another type.
    """
    changed = config.copy()
    for key, value in values.items():
        OmegaConf.update(changed, key, value)
    return changed
