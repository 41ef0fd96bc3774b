"""What a run's settings mean: their plain form for records, and the identity that equal runs share."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from omegaconf import OmegaConf

from meft_runner.config.coupling import LEARNED
from meft_runner.config.fields import as_recorded, hindrance, settings_of
from meft_runner.config.method_base import MethodSettings
from meft_runner.config.methods import METHODS, MeftSettings
from meft_runner.config.run import BESIDE_THE_RESULT, BackboneSettings, Settings, TrainingSettings
from meft_runner.config.sizes import parse_bytes
from meft_runner.config.tasks import TASKS, kind_with
from meft_runner.errors import UserError

_VERSION = "method.version"
_UNSET = {"training.eval_batch_size": 64}  # its default once, in the identity of all earlier runs


def identity(settings: Settings) -> str:
    """Returns a hash of what can change a run's result: of what its settings mean, however they were written."""
    content = json.dumps(meaning(settings), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:10]


def meaning(settings: Settings) -> dict[str, Any]:
    """Returns what can change a run's result, key by key, each value in one form.

    Left out is what does not change it, has no effect beside the other settings, is None, or came later and stands at
    its default: so a new setting leaves earlier runs their identity. For their sake `training.eval_batch_size` counts
    as 64 where it is not set, its default once, though it is that of training now.
    """
    content: dict[str, Any] = {}
    for key, set_to, notes in settings_of(settings):
        value = _UNSET.get(key) if set_to is None else set_to
        if value is None or notes.beside or hindrance(settings, notes) is not None:
            continue
        written = as_recorded(value)
        if notes.later and written == as_recorded(notes.default):
            continue
        content[key] = os.path.realpath(os.path.expanduser(written)) if notes.is_path(value) else written
    if "method.scale_1" in content:
        content.pop("method.mu", None)
        content |= _coupling(settings.method)
    if "method.budget" in content:
        content["method.budget"] = parse_bytes("method.budget", content["method.budget"])
    if settings.training.processes == 1:
        del content["training.processes"]
    if settings.method.version > 1:
        content[_VERSION] = settings.method.version
    return content


def _coupling(method: Any) -> dict[str, Any]:
    """Returns how the streams are tied, each value in one form."""
    scales, mus = zip(*method.halves, strict=True)
    content: dict[str, Any] = {f"method.scale_{place}": str(scale) for place, scale in enumerate(scales, start=1)}
    if isinstance(method, MeftSettings):
        weights = method.merge_weights
        content["method.merge"] = LEARNED if weights is None else list(weights)
    return content | ({} if isinstance(method, MeftSettings) and set(mus) == {1.0} else {"method.mu": list(mus)})


def result_settings(content: dict[str, Any], version: int) -> dict[str, Any]:
    """Returns the meaning of plain settings; of those that this program cannot read, what they say for the result.

    Args:
        content: settings of a run.
        version: of its method, in which it was trained.
    """
    try:
        groups = {group: schema(**content[group]) for group, schema in _schemas(content).items()}
        meant = meaning(Settings(**(content | groups)))  # values as they are: to check them takes long for many records
    except (KeyError, TypeError, ValueError, AttributeError, UserError):
        return {key: value for key, value in content.items() if key not in BESIDE_THE_RESULT}
    return meant | {_VERSION: version}


def method_version(method: Mapping[str, Any]) -> int:
    """Returns the version in which this program trains a method of plain settings."""
    schema = METHODS[method["name"]]
    known = {field.name for field in fields(schema)}
    return schema(**{key: value for key, value in method.items() if key in known}).version


def plain(settings: Settings | MethodSettings) -> dict[str, Any]:
    """Returns settings as they were given, as dictionaries, lists, strings and numbers."""
    content = OmegaConf.to_container(OmegaConf.structured(settings), enum_to_str=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def from_plain(content: dict[str, Any]) -> Settings:
    """Returns typed settings of a record's config; undoes `plain`.

    Raises:
        KeyError: a group is missing.
        ValueError: no task has these settings.
        OmegaConfBaseException: a value is of another type.
    """
    typed = {
        group: OmegaConf.merge(OmegaConf.structured(schema), content[group])
        for group, schema in _schemas(content).items()
    }
    settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Settings), content | typed))
    assert isinstance(settings, Settings)
    return settings


def _schemas(content: dict[str, Any]) -> dict[str, type[Any]]:
    """Returns the class of each group of plain settings; a task's follows from the settings that it has."""
    return {
        "backbone": BackboneSettings,
        "task": TASKS[kind_with(content["task"])],
        "method": METHODS[content["method"]["name"]],
        "training": TrainingSettings,
    }
