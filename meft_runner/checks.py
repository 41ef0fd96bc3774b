"""Checks of settings that types alone cannot make: ranges, and values that must go together."""

from dataclasses import fields
from fractions import Fraction
from typing import Any

from omegaconf import OmegaConf

from meft_runner.errors import UserError
from meft_runner.settings import MeftSettings, Reversal, Settings, TablesSettings


def parse(config: Any) -> Settings:
    """Turns a composed config into checked settings.

    Args:
        config: what Hydra composed, an OmegaConf node of the registered schema.

    Raises:
        UserError: a value is outside its range, or two values do not go together.
    """
    settings: Settings = OmegaConf.to_object(config)  # type: ignore[assignment]
    _check_ranges(settings)
    if isinstance(settings.method, MeftSettings):
        _check_meft(settings.method)
    return settings


def parse_tables(overrides: list[str]) -> TablesSettings:
    """Reads the arguments of `meft-tables`, written as key=value.

    Raises:
        UserError: an argument has another form.
    """
    for override in overrides:
        if "=" not in override:
            raise UserError(f"{override}: expected key=value with one of output_dir, tables_dir.")
    defaults = OmegaConf.structured(TablesSettings)
    return OmegaConf.to_object(OmegaConf.merge(defaults, OmegaConf.from_dotlist(overrides)))  # type: ignore[return-value]


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


_SMALLEST = {
    "backbone": {},
    "task": {"max_train_rows": 1, "max_eval_rows": 1, "max_length": 4},
    "method": {"adapter_dim": 1, "frozen_layers": 0, "grid_bits": 4, "chunks": 1, "rank": 1, "alpha": 1},
    "training": {
        "epochs": 1,
        "max_steps": 1,
        "batch_size": 1,
        "eval_batch_size": 1,
        "gradient_accumulation": 1,
        "patience": 1,
    },
}


def _check_ranges(settings: Settings) -> None:
    for group, limits in _SMALLEST.items():
        section = getattr(settings, group)
        for name in {f.name for f in fields(section)} & limits.keys():
            value = getattr(section, name)
            if value is not None and value < limits[name]:
                raise UserError(f"{group}.{name}={value}: expected {limits[name]} or more.")
    if settings.training.learning_rate <= 0:
        raise UserError(f"training.learning_rate={settings.training.learning_rate}: expected a number above 0.")
    if not 0 <= settings.seed < 2**32:
        raise UserError(f"seed={settings.seed}: expected 0 to 4294967295.")


def _check_meft(method: MeftSettings) -> None:
    for name in ("scale_1", "scale_2"):
        text = getattr(method, name)
        scale = parse_scale(f"method.{name}", text)
        unit = scale.numerator == 1 and scale.denominator <= 256
        if method.reversal is not Reversal.float and not unit:
            raise UserError(
                f"method.{name}={text}: reversal={method.reversal.name} divides integers: expected 1/n, n up to 256. "
                f"Take for instance 1/{max(1, min(256, round(1 / scale)))}, or method.reversal=float."
            )
    if method.merge is not None and len(method.merge) != 2:
        raise UserError(f"method.merge={method.merge}: expected two weights, for instance [0.5,0.5].")
    if method.grid_bits > 24:
        raise UserError(f"method.grid_bits={method.grid_bits}: expected 4 to 24.")
