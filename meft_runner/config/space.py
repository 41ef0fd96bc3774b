"""What a search may vary: ranges and choices of settings, as conf/hpo/ or the command line has them."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args

from omegaconf import DictConfig

from meft_runner.config.checks import parse
from meft_runner.config.fields import hindrance, notes_of, value_of
from meft_runner.config.run import Settings
from meft_runner.config.search import SPACE, with_values
from meft_runner.errors import UserError, nearest

_SECTIONS = ("method", "training")  # with other rows or another model, scores would not be one search's
_SCALES = ("log", "linear")
_FORMS = "expected a range, [low,high,log] or [low,high,linear], or a list of values"


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones where `whole`, even on a logarithmic scale where `log`.

    Attributes:
        key: of the setting.
    """

    key: str
    low: float
    high: float
    log: bool
    whole: bool

    def ends(self) -> list[Any]:
        """Returns the values from which it is known whether all of them can be set."""
        return [self.low, self.high]

    def holds(self, value: Any) -> bool:
        """Tells whether a value is one of its own."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def plain(self) -> list[Any]:
        """Returns it as it is written."""
        return [self.low, self.high, _SCALES[not self.log]]


@dataclass(frozen=True)
class Choice:
    """Several values of a setting.

    Attributes:
        key: of the setting.
        texts: the values as JSON.
    """

    key: str
    texts: tuple[str, ...]

    def ends(self) -> list[Any]:
        """Returns the values from which it is known whether all of them can be set."""
        return [json.loads(text) for text in self.texts]

    def holds(self, value: Any) -> bool:
        """Tells whether a value is one of its own."""
        return value in self.ends()

    def plain(self) -> list[Any]:
        """Returns it as it is written."""
        return self.ends()


Dimension = Range | Choice


def space_of(config: DictConfig, typed: Collection[str]) -> list[Dimension]:
    """Returns what the search of a composed config varies, a setting each.

    Of conf/, what the method does not have or does not read is left out, and so is what was typed as a setting, and
    what is far from where the method is, as its own value is not among the others.

    Args:
        config: of a run of the search.
        typed: keys that the user has given.

    Raises:
        UserError: something was asked for that no setting has or reads, or a value cannot be set.
    """
    settings, wished = parse(config), [name for name in typed if name.startswith(SPACE)]
    assert settings.hpo is not None
    space: list[Dimension] = []
    for key, content in _leaves(settings.hpo.space):
        place = f"{SPACE}.{key}"
        asked = any(place == name or place.startswith(f"{name}.") for name in wished)
        problem = _problem(settings, key)
        if key in typed:
            if asked and content is not None:
                raise UserError(f"{place}: {key} is given too, and has one value then. Leave out one of them.")
        elif problem is not None:
            if asked:
                raise UserError(f"{place}: {problem}")
        elif content is not None:
            dimension = _dimension(settings, key, content)
            if asked or dimension.holds(value_of(settings, key)):
                space.append(dimension)
                _check_values(config, dimension)
    if not space:
        raise UserError(f"hpo: nothing is left to search. Leave a setting out, or add {SPACE}.KEY=[low,high,log].")
    return space


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _problem(settings: Settings, key: str) -> str | None:
    """Returns why a setting cannot be searched, None where it can."""
    group, _, name = key.partition(".")
    if group not in _SECTIONS or not name:
        return f"expected a setting of {' or '.join(_SECTIONS)}, as in {SPACE}.training.learning_rate=[1e-5,1e-3,log]."
    section = getattr(settings, group)
    known = {each.name: notes_of(each) for each in fields(section)}
    known = {each: notes for each, notes in known.items() if notes.fixed is None and not notes.beside}
    owner = group if group == "training" else f"{group}={section.name}"
    if name not in known:
        return f"{owner} has no such setting, {nearest(name, known)}expected one of {', '.join(known)}."
    against = hindrance(settings, known[name])
    return None if against is None else f"has no effect with {against}. Leave out one of them."


def _dimension(settings: Settings, key: str, content: Any) -> Dimension:
    """Reads what is written for a setting.

    Raises:
        UserError: it is no range and no list of values, or an empty one.
    """
    shown = f"{SPACE}.{key}={_written(content)}"
    if not isinstance(content, list):
        raise UserError(f"{shown}: {_FORMS}.")
    if content and content[-1] in _SCALES:
        return _range(settings, key, content, shown)
    if any(isinstance(value, Mapping) for value in content):
        raise UserError(f"{shown}: {_FORMS}.")
    texts = tuple(json.dumps(value, ensure_ascii=False) for value in content)
    if len(set(texts)) < max(2, len(texts)):
        raise UserError(f"{shown}: expected two values or more, each once. One value is {key}=VALUE.")
    return Choice(key, texts)


def _range(settings: Settings, key: str, content: list[Any], shown: str) -> Range:
    group, _, name = key.partition(".")
    declared = next(each.type for each in fields(getattr(settings, group)) if each.name == name)
    kinds = {declared, *get_args(declared)}
    bounds = content[:-1]
    if len(bounds) != 2 or any(type(bound) not in (int, float) for bound in bounds):
        raise UserError(f"{shown}: {_FORMS}.")
    if not kinds & {int, float}:
        raise UserError(f"{shown}: is no number, so it has no range. Expected a list of values.")
    low, high, log, whole = *bounds, content[-1] == "log", float not in kinds
    if whole and any(type(bound) is float for bound in bounds):
        raise UserError(f"{shown}: expected whole numbers.")
    if not low < high:
        raise UserError(f"{shown}: an empty range, expected a smaller number first.")
    if log and low <= 0:
        raise UserError(f"{shown}: a logarithmic range begins above 0. Write linear in place of log.")
    return Range(key, low, high, log, whole)


def _check_values(config: DictConfig, dimension: Dimension) -> None:
    """Makes sure that the values can be set, each beside the other settings as they stand.

    Raises:
        UserError: one cannot.
        OmegaConfBaseException: one is of another type.
    """
    for value in dimension.ends():
        try:
            parse(with_values(config, {dimension.key: value}), [dimension.key])
        except UserError as error:
            raise UserError(f"{SPACE}.{dimension.key}: {error}") from error


def _written(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), default=str).replace('"', "")
