"""Values of settings as Hydra reads them, quoted where it would read something else."""

import json
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from meft_runner.config.overrides import read_overrides
from meft_runner.errors import UserError


def assignment(key: str, value: Any) -> str:
    """Returns a setting as it is typed, without quotes where they are not needed."""
    try:
        plain = isinstance(value, str) and read_overrides([f"{key}={value}"])[0].value() == value
    except (HydraException, UserError):
        plain = False
    return f"{key}={value if plain else written(value)}"


def written(value: Any) -> str:
    """Returns a value as Hydra reads it: text, number, true or false, null, or a list of such."""
    if isinstance(value, str):
        return quoted(value)
    return f"[{','.join(map(written, value))}]" if isinstance(value, list) else json.dumps(value)


def quoted(text: str) -> str:
    """Returns a value that Hydra reads as this text: 12e3456789 is a name and no number."""
    return QuotedString(text, Quote.single).with_quotes()
