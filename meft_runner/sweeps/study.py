"""One search: what it varies beside the settings that were typed, and its trials as their runs' records have them."""

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from meft_runner.config import SPACE, SearchSettings, Settings, meaning, with_values
from meft_runner.config.checks import parse
from meft_runner.config.fields import value_of
from meft_runner.config.overrides import typed_keys
from meft_runner.config.space import Dimension, space_of
from meft_runner.errors import UserError
from meft_runner.records.record import folder_name, read_own_record
from meft_runner.records.schema import Record
from meft_runner.records.search import SEARCHES, Search, Trial, read_search, write_search
from meft_runner.run.composing import compose_config
from meft_runner.run.folder import run_directory
from meft_runner.run.origin import KEY, with_origin
from meft_runner.run.reuse import check_ended
from meft_runner.sweeps.outcomes import Outcome
from meft_runner.sweeps.tried import Tried, tried

_ENDED = ("complete", "failed", "pruned")


@dataclass
class Study:
    """A search, and what this command has found out about its trials.

    Attributes:
        overrides: what was typed for it, with one value of each setting.
        config: of its runs, as composed.
        settings: the same, typed.
        space: what it varies.
        failures: trials that failed in this command, by number.
        launched: how often this command has started each trial.
    """

    overrides: list[str]
    config: DictConfig
    settings: Settings
    space: list[Dimension]
    failures: dict[int, Outcome] = field(default_factory=dict)
    launched: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reads what earlier calls have left."""
        settings = self.settings
        self.search = self._left() or Search(
            backbone=settings.backbone.name,
            task=settings.task.name,
            method=settings.method.name,
            seed=settings.seed,
            space={each.key: each.plain() for each in self.space},
        )
        for number, trial in enumerate(self.search.trials, start=1):
            if set(trial.settings) != set(self.keys) or not all(
                each.holds(trial.settings[each.key]) for each in self.space
            ):
                raise UserError(f"{self.directory}: its trial {number} is none of this search. Remove that folder.")

    def _left(self) -> Search | None:
        try:
            return read_search(self.directory)
        except UserError as error:
            raise UserError(f"{error} Remove {self.directory} to search anew.") from error

    @property
    def asked(self) -> SearchSettings:
        """What the search was asked for."""
        assert self.settings.hpo is not None
        return self.settings.hpo

    @property
    def directory(self) -> Path:
        """The folder of what it leaves; equal searches share it, however many trials they are to have."""
        settings, asked = self.settings, self.asked
        same = {
            "settings": {key: value for key, value in meaning(settings).items() if key not in self.keys},
            "space": {each.key: each.plain() for each in self.space},
            "search": [asked.sampler_seed, asked.pruner, asked.startup_trials, asked.warmup_epochs],
        }
        digest = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:10]
        return Path(settings.output_dir) / SEARCHES / folder_name(settings, digest)

    @property
    def keys(self) -> list[str]:
        """The keys of what is varied."""
        return [each.key for each in self.space]

    def as_it_stands(self) -> dict[str, Any] | None:
        """Returns the values that the settings have without a search; None where one is not among what is varied."""
        values = {key: value_of(self.settings, key) for key in self.keys}
        return values if all(each.holds(values[each.key]) for each in self.space) else None

    def add(self, suggested: Sequence[dict[str, Any]]) -> None:
        """Notes further trials."""
        for values in suggested:
            trial = Trial(settings=values)
            self.search.trials.append(trial)
            try:
                trial.run = run_directory(self.settings_of(trial)).name
            except UserError as error:
                trial.error = str(error)
        write_search(self.search, self.directory)

    def settings_of(self, trial: Trial) -> Settings:
        """Returns the settings of a trial's run.

        Raises:
            UserError: they do not go together.
        """
        keys = [*typed_keys(self.overrides), *trial.settings]
        return with_origin(parse(with_values(self.config, trial.settings), keys))

    def folder_of(self, number: int) -> Path | None:
        """Returns the folder of a trial's run, None where its settings make none."""
        run = self.search.trials[number].run
        return None if run is None else Path(self.settings.output_dir) / run

    def record_of(self, number: int) -> Record | None:
        """Returns the record of a trial's run, None where there is none.

        Raises:
            UserError: it cannot be read, or is that of another run.
        """
        folder = self.folder_of(number)
        return None if folder is None else read_own_record(folder)

    def tried(self, number: int) -> Tried:
        """Returns a trial as it is now."""
        trial = self.search.trials[number]
        if trial.error is not None or number in self.failures:
            return Tried(trial.settings, "failed")
        return tried(trial.settings, self.record_of(number))

    def is_open(self, number: int) -> bool:
        """Tells whether a trial is still to be run, or to be run on."""
        status = self.tried(number).status
        if status == "failed":
            may_again = self.settings.retry_failed and self.search.trials[number].error is None
            return may_again and number not in self.launched
        return status not in _ENDED or (status == "pruned" and not self.asked.pruner)

    def check(self, first: int = 0) -> None:
        """Makes sure that trials, from this number on, may stand beside those that come.

        A trial that failed is of no account, and one that is open is trained on what is there now.

        Raises:
            UserError: the run of one is not that of its settings, which searches of one folder may have otherwise
                where a value has an effect beside some of those that are searched alone; or it has come to an end and
                was made from other rows or weights than are there now.
        """
        for number, trial in list(enumerate(self.search.trials))[first:]:
            folder, record = self.folder_of(number), self.record_of(number)
            if folder is None or (record is not None and record.status == "failed"):
                continue
            settings = self.settings_of(trial)
            if run_directory(settings) != folder:
                raise UserError(
                    f"{self.directory}: its trial {number + 1} is of other settings than this search has. Set "
                    "output_dir to another folder, or remove that one to search anew."
                )
            if record is not None and not self.is_open(number):
                check_ended(settings, folder, record)


def studies_of(overrides: Sequence[Override]) -> Iterator[Study]:
    """Yields the search of each combination of what is swept over.

    Raises:
        UserError: a combination makes no run, or what is to be searched cannot be.
        HydraException: a setting is not known.
    """
    values = [
        [f"{one.get_key_element()}={text}" for text in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [str(one.input_line)]
        for one in overrides
    ]
    for combination in map(list, product(*values)):
        config, keys = compose_config(combination), typed_keys(combination)
        settings = with_origin(parse(config, keys))
        if settings.study is not None:
            raise UserError(f"study={settings.study.name}: has no scores to search by. Leave it or hpo out.")
        yield Study(combination, config, settings, _of_one_model(space_of(config, keys), config, settings, keys))


def _of_one_model(
    space: list[Dimension], config: DictConfig, settings: Settings, typed: Collection[str]
) -> list[Dimension]:
    """Returns what of a space leaves the model as an earlier run has it, where runs begin with that one's weights.

    Raises:
        UserError: something that the user has asked for does not, or nothing does.
    """
    if settings.method.start_from is None:
        return space
    kept = []
    for each in space:
        try:
            for value in each.ends():
                with_origin(parse(with_values(config, {each.key: value})))
        except UserError as error:
            if f"{SPACE}.{each.key}" in typed:
                raise UserError(f"{SPACE}.{each.key}: {error}") from error
        else:
            kept.append(each)
    if not kept:
        raise UserError(f"hpo: nothing is left to search beside {KEY}. Add {SPACE}.KEY=[low,high,log].")
    return kept
