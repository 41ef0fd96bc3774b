"""What may be typed after `meft-run`: settings of conf/ by their names, each once, and nothing that is not read."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import Field, fields
from enum import EnumMeta
from functools import cache
from itertools import accumulate
from typing import Any, get_args

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    OverrideType,
    QuotedString,
    Sweep,
)
from omegaconf import DictConfig, OmegaConf

from meft_runner.config.directory import names_of
from meft_runner.config.fields import notes_of
from meft_runner.config.methods import METHODS, adds_tokens
from meft_runner.config.run import BackboneSettings, Settings, TrainingSettings
from meft_runner.config.search import SPACE, SearchSettings
from meft_runner.config.tasks import TASKS
from meft_runner.errors import UserError, nearest

GROUPS = ("backbone", "task", "method")
OPTIONAL_GROUPS = ("experiment", "scale", "launcher", "hpo")
_SECTIONS = (*GROUPS, "training", "hpo")
_IMPORTING = re.compile(r"(?<!\w)_(target|partial|args|convert|recursive)_\s*[=:]")  # Hydra would import or call it
_ENVIRONMENT = re.compile(r"\$\{.*\boc\.env\b")
_ADDED = "hydra.launcher.additional_parameters."  # of SLURM, by any name
_BRACKET, _MOST_BRACKETS = re.compile(r"[\[{(]"), 50
_OF_SWEEPS = ("seeds", "retry_failed", "launcher", "hpo")


def read_overrides(texts: Iterable[str]) -> list[Override]:
    """Reads what was typed, key=value.

    Raises:
        UserError: it is nested deeper than a parser can follow, or holds what is no text.
        HydraException: it is of another form.
    """
    texts = list(texts)
    for text in texts:
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
            raise UserError(f"{text!a}: has a control character in it, or bytes that are no UTF-8. Leave them out.")
        if len(_BRACKET.findall(text)) > _MOST_BRACKETS:
            raise UserError(f"{text}: has more brackets than any setting needs. Quote a value that is a text.")
    return OverridesParser.create().parse_overrides(texts)


def check_overrides(overrides: Sequence[Override]) -> None:
    """Makes sure that what was typed can be meant, before anything is composed from it.

    Raises:
        UserError: one is of another form, is given twice, names nothing that is there or would have no effect.
    """
    for override in overrides:
        check_form(override)
        _check_fixed(override)
        _check_value(override)
        if override.key_or_group in (*GROUPS, *OPTIONAL_GROUPS):
            _check_group(override)
        elif override.key_or_group.partition("/")[0].partition(".")[0] == "hydra":
            _check_hydra(override)
    given = Counter(override.key_or_group for override in overrides)
    for key, times in given.items():
        if times > 1:
            raise UserError(f"{key}: given {times} times. Leave all but one out; several values are {key}=A,B with -m.")
    _check_needed(given)


def check_single(overrides: Iterable[Override]) -> None:
    """Makes sure that nothing was typed for a single run that only a sweep reads.

    Raises:
        UserError: one was, and this is a single run.
    """
    for override in overrides:
        key = override.key_or_group
        if override.is_sweep_override():
            raise UserError(f"{override.input_line}: several values make a sweep. Start it with -m, or give one value.")
        if key in _OF_SWEEPS or key.startswith(("hydra.launcher.", "hpo.")):
            raise UserError(
                f"{override.input_line}: has an effect on a sweep alone. Start one with -m, or leave it out."
            )


def check_level(overrides: Iterable[Override], config: DictConfig) -> None:
    """Makes sure that the experiment of a command reads its level, if one was typed.

    Raises:
        UserError: the config that was composed has no place for it.
    """
    typed = next((override for override in overrides if override.key_or_group == "level"), None)
    if typed is not None and "${level}" not in str(OmegaConf.to_container(config)):
        raise UserError(f"{typed.input_line}: the experiment has no levels. Leave it out.")


def typed_keys(overrides: Iterable[str], of_experiment: Iterable[str] = ()) -> frozenset[str]:
    """Returns the keys of overrides, key=value, but for those that an experiment sweeps over by itself."""
    return frozenset(override.partition("=")[0].lstrip("+~") for override in overrides) - frozenset(of_experiment)


def check_name(group: str, name: str) -> None:
    """Makes sure that a group of conf/ has a file of this name.

    Raises:
        UserError: it has none.
    """
    known = names_of(group)
    if group == "method" and name not in known and adds_tokens(name):
        raise UserError(
            f"method={name}: adds tokens to a row, and a layer must return as many as it gets to be reversible. "
            f"Expected one that trains inside layers, of {', '.join(known)}."
        )
    if name not in known:
        raise UserError(f"{group}={name}: there is no such {group}, {nearest(name, known)}expected {', '.join(known)}.")


def check_form(override: Override) -> None:
    """Makes sure that an override sets one thing that can be set by its name.

    Raises:
        UserError: it is of another form, or would import something or read the environment.
    """
    text, key = str(override.input_line), override.key_or_group
    if _IMPORTING.search(text):
        raise UserError(f"{text}: no such setting. What is imported and called is conf/'s own affair.")
    if _ENVIRONMENT.search(text):
        raise UserError(f'{text}: nothing is read from the environment. Let the shell put it in: {key}="$NAME".')
    if override.is_delete():
        raise UserError(f"{text}: settings cannot be taken away. Leave it out for the default.")
    if override.type is not OverrideType.CHANGE and not key.startswith((_ADDED, f"{SPACE}.")):
        known = sorted([*_settings(), *OPTIONAL_GROUPS])
        hint = f"Write {key}=VALUE." if key in known else f"There is no such setting, {nearest(key, known)}see --help."
        raise UserError(f"{text}: settings cannot be added. {hint}")
    if override.package is not None or not key or key == "training":
        raise UserError(f"{text}: expected key=value, as in training.epochs=3.")


def _check_fixed(override: Override) -> None:
    key, settings = override.key_or_group, _settings()
    beginnings = accumulate(key.split("."), "{}.{}".format)
    declared = next((part for part in beginnings if part in settings and part not in _SECTIONS), key)
    fixed = [notes_of(each).fixed for each in settings.get(declared, [])]  # of backbone.config.vocab_size too
    if fixed and all(fixed):
        group = key.partition(".")[0]
        raise UserError(f"{override.input_line}: comes from the file of conf/{group}/ that {group}= names. {fixed[0]}")
    if declared not in (key, SPACE):
        raise UserError(f"{override.input_line}: {declared} has no parts. Write {declared}=VALUE.")


def _check_value(override: Override) -> None:
    text, value = str(override.input_line), override.value()
    if override.key_or_group.startswith("hpo.") and override.is_sweep_override():
        raise UserError(f"{text}: a search has one value of it. In hpo.space write a list, as in hpo.space.KEY=[A,B].")
    if override.key_or_group.startswith(SPACE) and isinstance(value, dict):
        raise UserError(f"{text}: expected one setting at a time, as in {SPACE}.training.batch_size=[8,16].")
    if (isinstance(value, str) and not value.strip()) or (isinstance(value, QuotedString) and not value.text.strip()):
        raise UserError(f"{text}: has no value. Leave it out for the default.")
    if isinstance(value, IntervalSweep):
        raise UserError(f"{text}: expected values, as in {override.key_or_group}=A,B.")
    if isinstance(value, ChoiceSweep):
        values = Counter(each.text if isinstance(each, QuotedString) else str(each) for each in value.list)
        for each, times in values.items():
            if times > 1:
                raise UserError(f"{text}: {each} is given {times} times. Give each value once.")
    numbers = [each for each in _elements(value) if type(each) in (int, float)]
    kinds = {kind for each in _settings().get(override.key_or_group, []) for kind in (each.type, *get_args(each.type))}
    if bool in kinds and any(number not in (0, 1) for number in numbers):
        raise UserError(f"{text}: expected true or false.")
    if any(isinstance(kind, EnumMeta) for kind in kinds):
        if numbers:  # which Hydra would take for a place in a list
            raise UserError(f"{text}: expected a name, not a number.")
        if isinstance(value, list):
            raise UserError(f"{text}: expected a name, not a list.")
    if override.key_or_group == "seeds" and isinstance(value, list) and len(set(map(str, value))) < max(1, len(value)):
        raise UserError(f"{text}: expected one or more seeds, each once.")


def _elements(value: Any) -> list[Any]:
    return list(value.list) if isinstance(value, ChoiceSweep) else [value]


@cache
def _settings() -> dict[str, list[Field[Any]]]:
    """Returns the keys of all settings that some run has, with the field of each backbone, task or method for it."""
    groups: dict[str, Collection[type[Any]]] = {
        "backbone": [BackboneSettings],
        "task": TASKS.values(),
        "method": METHODS.values(),
        "training": [TrainingSettings],
        "hpo": [SearchSettings],
    }
    found = {each.name: [each] for each in fields(Settings)}
    for group, kinds in groups.items():
        for kind in kinds:
            for each in fields(kind):
                found.setdefault(f"{group}.{each.name}", []).append(each)
    return found


def _check_group(override: Override) -> None:
    group = override.key_or_group
    if override.is_sweep_override() and group in OPTIONAL_GROUPS:
        raise UserError(f"{override.input_line}: expected one {group} at a time. Start one by one.")
    for name in _values(override):
        check_name(group, name)


def _values(override: Override) -> Iterator[str]:
    """Yields the values of a group's override, of which a sweep has several."""
    value = override.value()
    if isinstance(value, Glob) or (isinstance(value, Sweep) and not override.is_choice_sweep()):
        raise UserError(f"{override.input_line}: expected names, as in {override.key_or_group}=A,B.")
    for text in override.sweep_string_iterator() if isinstance(value, Sweep) else [override.get_value_element_as_str()]:
        yield text.strip("'\"")


def _check_hydra(override: Override) -> None:
    key = override.key_or_group
    if key == "hydra.mode":
        raise UserError(f"{override.input_line}: write -m for a sweep.")
    if not key.startswith("hydra.launcher."):
        raise UserError(
            f"{override.input_line}: is the program's own. Of Hydra's settings, those of hydra.launcher can be set, "
            f"with launcher={'|'.join(names_of('launcher'))}."
        )


def _check_needed(given: Collection[str]) -> None:
    """Refuses what is only read together with something else that was not typed."""
    for key in given:
        if key in ("scale", "level") and "experiment" not in given:
            raise UserError(f"{key}: has an effect on experiments alone. Add experiment=NAME, or leave it out.")
        if key.startswith("hpo.") and "hpo" not in given:
            raise UserError(f"{key}: needs hpo={'|'.join(names_of('hpo'))}.")
        if key.startswith("hydra.launcher.") and "launcher" not in given:
            raise UserError(f"{key}: needs launcher={'|'.join(names_of('launcher'))}.")
