"""Keyword arguments of the interface: the settings of methods, with their names, types, defaults and checks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from fractions import Fraction
from typing import Any, TypedDict, TypeVar

import numpy as np
from omegaconf import OmegaConf

from meft_runner.config import METHODS, MeftSettings, MethodSettings, PeftSettings
from meft_runner.config.checks import check_ranges, check_reversal, refusal
from meft_runner.config.fields import notes_of, settings_of
from meft_runner.errors import UserError, nearest
from meft_runner.run.composing import method_defaults

Scale = str | float | Fraction  # as "1/256" or 0.1
_S = TypeVar("_S", bound=MethodSettings)


class ReversalArguments(TypedDict, total=False):
    """The settings of a reversal, for models that peft has prepared and for plain ones.

    Attributes:
        reversal: `exact`, `float` or `stored`.
        scale_1: lambda, as "1/256" or 0.1.
        mu: the factor of a layer's output: a number, or `1-scale`.
        grid_bits: the exact streams' grid has step 2^-grid_bits.
        chunks: in which a layer computes a batch; None for about 1,024 tokens in each.
        strict: stop when a rebuilt stream differs, instead of counting.
        offload: what is kept of each layer waits in the host's memory.
        kernels: `auto`, `plain` or `fused`.
        stored_layers: top layers that keep their activations.
    """

    reversal: str
    scale_1: Scale
    mu: Scale
    grid_bits: int
    chunks: int | None
    strict: bool
    offload: bool
    kernels: str
    stored_layers: int


class MeftArguments(ReversalArguments, total=False):
    """The settings of MEFT besides.

    Attributes:
        adapter_dim: inner width of an adapter.
        adapter_dropout: dropout inside an adapter; None for the backbone's own.
        adapter_factor: an adapter's output is multiplied by it.
        zero_start: whether an adapter's second matrix starts at zero.
        scale_2: beta.
        merge: weights of the two streams after the last block, or `learned`.
        frozen_layers: bottom layers that stay plain and frozen.
    """

    adapter_dim: int
    adapter_dropout: float | None
    adapter_factor: float
    zero_start: bool
    scale_2: Scale
    merge: Sequence[float] | str
    frozen_layers: int


@dataclass(frozen=True)
class _Asked:
    """Settings of a method where checks look for them."""

    method: MethodSettings


def meft_settings(method: str, norm: str, given: Mapping[str, Any]) -> MeftSettings:
    """Returns checked settings of a variant of MEFT or of a preset.

    Args:
        method: its name.
        norm: where the model's layers have their LayerNorm.
        given: settings that were given.

    Raises:
        UserError: one is unknown, of another type or outside its range.
    """
    return _settings(MeftSettings, method_defaults(method, norm), given, [*MeftArguments.__annotations__])


def peft_settings(kind: str, given: Mapping[str, Any]) -> PeftSettings:
    """Returns checked settings of a delay coupling of layers that a method of peft has prepared.

    Args:
        kind: what peft calls the method, as lora.
        given: settings that were given.

    Raises:
        UserError: one is unknown, of another type or outside its range.
    """
    if given.get("reversal") == "off":
        raise UserError("method.reversal=off: the layers would stay as they are. Expected exact, float or stored.")
    usual = {"name": kind, "learning_rate": 1e-3, "reversal": "exact"}
    return _settings(PeftSettings, usual, given, [*ReversalArguments.__annotations__])


def run_settings(method: str, norm: str, given: Mapping[str, Any]) -> MethodSettings:
    """Returns checked settings of any method, with the defaults of a run of it.

    Args:
        method: its name.
        norm: where the model's layers have their LayerNorm.
        given: settings that were given.

    Raises:
        UserError: one is unknown, of another type or outside its range.
    """
    schema = METHODS[method]
    of_runs = ("budget", "start_from")  # which a prediction has nothing to do with
    known = [each.name for each in fields(schema) if notes_of(each).fixed is None and each.name not in of_runs]
    return _settings(schema, method_defaults(method, norm), given, known)


def restored(schema: type[_S], content: Mapping[str, Any]) -> _S:
    """Returns checked settings of their plain form.

    Raises:
        UserError: one is outside its range.
    """
    names = {each.name for each in fields(schema)}
    for name, value in content.items():
        if "${" in str(value):  # which OmegaConf would look up, in the environment too
            raise UserError(f"method.{name}: expected a value, not something that is read from elsewhere.")
    made: Any = OmegaConf.merge(OmegaConf.structured(schema), {k: v for k, v in content.items() if k in names})
    settings: Any = OmegaConf.to_object(made)
    check_ranges(_Asked(settings))
    if settings.reverses:
        check_reversal(settings)
    return settings


def _settings(schema: type[_S], usual: Mapping[str, Any], given: Mapping[str, Any], known: Sequence[str]) -> _S:
    known = sorted(known)
    kinds = {each.name: each.type for each in fields(schema)}
    typed = {}
    for name, value in given.items():
        if name not in known:
            raise UserError(f"{name}: no such argument, {nearest(name, known)}expected one of {', '.join(known)}.")
        typed[name] = _plain(name, value, kinds[name])
    settings = restored(schema, {**usual, **typed})
    for key, value, notes in settings_of(_Asked(settings)):
        if key.partition(".")[2] in given and (message := refusal(_Asked(settings), key, value, notes)) is not None:
            raise UserError(message)
    return settings


def _plain(name: str, value: Any, kind: Any) -> Any:
    """Returns an argument as it would stand in a file of settings."""
    if isinstance(value, np.generic):
        value = value.item()
    if kind is bool and isinstance(value, int) and value not in (0, 1):
        raise UserError(f"method.{name}={value}: expected True or False.")
    if isinstance(kind, type) and issubclass(kind, Enum) and not isinstance(value, str | kind):
        raise UserError(f"method.{name}={value}: expected one of {', '.join(kind.__members__)}.")
    if kind is str and isinstance(value, float) and 0 < value < 1 and 1 / round(1 / value) == value:
        return f"1/{round(1 / value)}"  # 1/3 has no decimal form
    if isinstance(value, Fraction):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
