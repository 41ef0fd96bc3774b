"""Checks of settings that types alone cannot make: ranges, and values that must go together."""

import math
import re
from dataclasses import fields
from fractions import Fraction
from typing import Any

from omegaconf import ListConfig, OmegaConf

from meft_runner.config import (
    BackboneSettings,
    MeftSettings,
    MemorySettings,
    Reversal,
    Settings,
    SplitSettings,
    TablesSettings,
)
from meft_runner.config.compatibility import check_compatible
from meft_runner.errors import UserError, nearest

_SWITCH = {"true": True, "false": False}
_LARGEST_DENOMINATOR = 256  # remainders are packed to a byte at the most


def parse(config: Any) -> Settings:
    """Turns a composed config into checked settings.

    Args:
        config: what Hydra composed, an OmegaConf node of the registered schema.

    Raises:
        UserError: a value is outside its range, or two values do not go together.
    """
    settings: Settings = OmegaConf.to_object(config)  # type: ignore[assignment]
    check_compatible(settings.backbone.name, settings.task.name)
    _check_ranges(settings)
    if isinstance(settings.task, SplitSettings):
        _check_splits(settings.task)
    if isinstance(settings.method, MeftSettings):
        _check_meft(settings, settings.method)
    elif settings.study is not None:
        raise UserError(f"study={settings.study.name}: looks at a reversal, method={settings.method.name} has none.")
    return settings


def check_processes(settings: Settings, started: int) -> None:
    """Makes sure that as many processes train a run as its settings say.

    Raises:
        UserError: torchrun has started another number.
    """
    expected = settings.training.processes or 1
    if expected != started:
        raise UserError(
            f"training.processes={expected}: {started} started. It is set by torchrun --nproc_per_node={expected}."
        )


def parse_tables(overrides: list[str]) -> TablesSettings:
    """Reads the arguments of `meft-tables`, written as key=value.

    Raises:
        UserError: an argument has another form.
    """
    asked = TablesSettings()
    known = [field.name for field in fields(TablesSettings)]
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not value:
            raise UserError(f"{override}: expected key=value with one of {', '.join(known)}.")
        if key not in known:
            raise UserError(f"{key}: no such setting, {nearest(key, known)}expected one of {', '.join(known)}.")
        if key == "report" and value not in _SWITCH:
            raise UserError(f"report={value}: expected true or false.")
        setattr(asked, key, _SWITCH[value] if key == "report" else value)
    if asked.report and asked.tables_dir is None:
        asked.tables_dir = "tables"
    return asked


def parse_memory(arguments: list[str]) -> tuple[MemorySettings, list[str]]:
    """Reads the arguments of `meft-memory`.

    Args:
        arguments: key=value with lists in brackets; keys with a dot, such as method.chunks, are a run's settings.

    Returns:
        What is asked, and the settings that hold for every case.

    Raises:
        UserError: an argument is not known, or its value does not fit.
    """
    own = [argument for argument in arguments if "." not in argument.partition("=")[0]]
    asked = OmegaConf.structured(MemorySettings)
    for argument in own:
        key, equals, value = argument.partition("=")
        if not equals or key not in asked:
            raise UserError(f"{key}: no such setting, {nearest(key, map(str, asked))}expected {', '.join(asked)}.")
        given = OmegaConf.to_container(OmegaConf.from_dotlist([argument]))[key]  # type: ignore[call-overload,index]
        asked[key] = [given] if isinstance(asked[key], ListConfig) and not isinstance(given, list) else given
    parsed: MemorySettings = OmegaConf.to_object(asked)  # type: ignore[assignment]
    for key in ("batch", "length"):
        for value in getattr(parsed, key):
            if value < 1:
                raise UserError(f"{key}={value}: expected 1 or more.")
    return parsed, [argument for argument in arguments if argument not in own]


def parse_bytes(text: str) -> int:
    """Reads a size such as 24GiB, 512MiB or 24GB.

    Raises:
        UserError: it has another form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT])(i?)B", text)
    if match is None or float(match[1]) == 0:
        raise UserError(f"fit={text}: expected a number with a unit, as in 24GiB or 512MiB.")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** ("KMGT".index(match[2]) + 1))


def effective_merge(backbone: BackboneSettings, method: MeftSettings) -> list[float]:
    """Returns the weights of the two streams after the last block: the method's own, or the backbone's."""
    return backbone.merge.get(method.name, []) if method.merge is None else method.merge


def parse_scale(key: str, text: str) -> Fraction:
    """Reads a scale such as "1/10" or "0.1".

    Raises:
        UserError: it is no number above 0.
    """
    try:
        scale = Fraction(text.replace(" ", ""))
    except (ValueError, ZeroDivisionError):
        scale = Fraction(0)
    if scale <= 0:
        raise UserError(f"{key}={text}: expected a number above 0, written as 1/10 or 0.1.")
    return scale


_LARGEST_COUNT = 10**9
_RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "backbone": {"repeat": (1, 1000)},
    "task": {
        "max_train_rows": (1, _LARGEST_COUNT),
        "max_eval_rows": (1, _LARGEST_COUNT),
        "max_length": (4, 10**6),
        "stride": (0, 10**6),
        "n_best": (1, 1000),
        "max_answer_length": (1, 10**6),
        "null_threshold": (-1e6, 1e6),
    },
    "method": {
        "learning_rate": (1e-12, 1e3),
        "adapter_dim": (1, 10**6),
        "adapter_dropout": (0, 0.99),
        "frozen_layers": (0, 10**6),
        "grid_bits": (4, 24),
        "chunks": (1, _LARGEST_COUNT),
        "rank": (1, 10**6),
        "alpha": (1, 10**6),
        "dropout": (0, 0.99),
        "init_constant": (-1e6, 1e6),
        "init_noise": (0, 1e6),
    },
    "training": {
        "epochs": (1, 10**6),
        "max_steps": (1, _LARGEST_COUNT),
        "batch_size": (1, 10**6),
        "eval_batch_size": (1, 10**6),
        "learning_rate": (1e-12, 1e3),
        "gradient_accumulation": (1, 10**6),
        "patience": (1, 10**6),
        "weight_decay": (0, 1e3),
        "warmup": (0, 0.99),
        "max_grad_norm": (1e-12, 1e12),
    },
}


def _check_ranges(settings: Settings) -> None:
    for group, ranges in _RANGES.items():
        section = getattr(settings, group)
        for name in [f.name for f in fields(section) if f.name in ranges]:
            value, (low, high) = getattr(section, name), ranges[name]
            if value is not None and not low <= value <= high:  # not a number fails this too
                raise UserError(f"{group}.{name}={value}: expected {low} to {high}.")
    for seed in (settings.seed, *(settings.seeds or [])):
        if not 0 <= seed < 2**32:
            raise UserError(f"seed={seed}: expected 0 to 4294967295.")


def _check_splits(task: SplitSettings) -> None:
    if not task.eval_splits or task.train_split in task.eval_splits:
        raise UserError(
            f"task.eval_splits={task.eval_splits}: expected at least one split other than {task.train_split}."
        )


def _check_meft(settings: Settings, method: MeftSettings) -> None:
    for name in ("scale_1", "scale_2"):
        text = getattr(method, name)
        scale = parse_scale(f"method.{name}", text)
        unit = scale.numerator == 1 and scale.denominator <= _LARGEST_DENOMINATOR
        if method.reversal is not Reversal.float and not unit:
            near = max(1, min(_LARGEST_DENOMINATOR, round(1 / scale)))
            raise UserError(
                f"method.{name}={text}: reversal={method.reversal.name} divides integers: expected 1/n, n up to "
                f"{_LARGEST_DENOMINATOR}. Take for instance 1/{near}, or method.reversal=float."
            )
    merge = effective_merge(settings.backbone, method)
    if len(merge) != 2 or not all(math.isfinite(weight) for weight in merge):
        raise UserError(f"method.merge={merge}: expected two weights, for instance [0.5,0.5].")
