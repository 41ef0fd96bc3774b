"""What `meft-memory` is asked: its arguments, in the grammar of `meft-run` but with lists in brackets."""

from collections.abc import Sequence
from dataclasses import replace
from enum import EnumMeta
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import OverrideParseException

from meft_runner.config import MemorySettings
from meft_runner.config.checks import check_ranges
from meft_runner.config.fields import as_typed
from meft_runner.config.overrides import check_form, check_name
from meft_runner.config.sizes import parse_bytes
from meft_runner.errors import UserError, nearest, one_of
from meft_runner.memory_report.effects import check_answers, check_of_a_run

_HINTS = get_type_hints(MemorySettings)
_EXAMPLES = {
    "backbone": "roberta", "method": "[lora,meft1]", "checkpointing": "[false,true,offload]", "batch": "32",
    "length": "128", "precision": "bf16", "attention": "flash", "weights": "nf4", "head": "lm", "format": "json",
    "sweep": "length", "fit": "24GiB", "output_dir": "memory",
}  # fmt: skip
_WORDS = {int: "a whole number", bool: "true or false", str: "a text"}
_UNREADABLE = (OverrideParseException, ValueError, RecursionError)  # numbers of too many digits, brackets too deep


def read_arguments(arguments: Sequence[str]) -> tuple[MemorySettings, list[str]]:
    """Reads the arguments of `meft-memory`.

    Args:
        arguments: key=value; keys with a dot, such as method.chunks, are settings of a run.

    Returns:
        What is asked, and the settings of a run that hold for every case.

    Raises:
        UserError: an argument is not known, its value does not fit, or it would have no effect.
    """
    overrides = {}
    for override in map(_read, arguments):
        key = override.key_or_group
        if key in overrides:
            raise UserError(f"{key}: given twice. Leave one of them out; several values are {key}=[A,B].")
        overrides[key] = override
    own = {key: _value(override, _HINTS[key]) for key, override in overrides.items() if key in _HINTS}
    given = {key: value for key, value in own.items() if value is not None}
    asked = replace(MemorySettings(), **given)
    _check_values(asked)
    of_a_run = {key: str(override.input_line) for key, override in overrides.items() if key not in _HINTS}
    for key, text in of_a_run.items():
        check_of_a_run(key, text, asked)
    check_answers(asked, {key for key, value in given.items() if value is not False}, of_a_run)
    return asked, list(of_a_run.values())


def _check_values(asked: MemorySettings) -> None:
    check_ranges(asked)
    for name in asked.backbone:
        check_name("backbone", name)
    for name in asked.method:
        check_name("method", name)
    if asked.fit is not None:
        parse_bytes("fit", asked.fit)


def _read(argument: str) -> Override:
    key, equals, text = argument.partition("=")
    if not argument.isprintable():
        raise UserError(f"{argument!a}: has a control character in it, or bytes that are no UTF-8. Leave them out.")
    if argument.startswith("-"):
        raise UserError(f"{argument}: no such option. Expected key=value, for instance batch=[8,16], or --help.")
    if not equals or not text:
        what = _example(key) if key in _HINTS else f"{_example('batch')} ({nearest(key, _HINTS)}see --help)"
        raise UserError(f"{argument}: expected key=value, for instance {what}.")
    try:
        (override,) = OverridesParser.create().parse_overrides([argument])
    except _UNREADABLE as error:
        raise UserError(
            f"{argument}: cannot be read as key=value or key=[value,value]. Quote special characters: 'key=\"a b\"'."
        ) from error
    check_form(override)
    if override.is_sweep_override():
        raise UserError(f"{argument}: expected one value, or for a setting of meft-memory itself a list: batch=[8,16].")
    return override


def _example(key: str) -> str:
    return f"{key}={_EXAMPLES.get(key, 'true')}"


def _value(override: Override, hint: Any) -> Any:
    """Returns the value of one of meft-memory's own settings, in the type that it is declared with; None for null."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] if NoneType in get_args(hint) else [hint]
    given = override.value()
    if given is None and kinds != [hint]:
        return None
    if get_origin(kinds[0]) is not list:
        return _typed(override, kinds[0], given)
    (kind,) = get_args(kinds[0])
    values = [_typed(override, kind, value) for value in (given if isinstance(given, list) else [given])]
    if not values or len(set(values)) < len(values):
        what = "names a value twice" if values else "is empty"
        raise UserError(f"{override.input_line}: {what}. Expected a value, or a list of different ones.")
    return values


def _typed(override: Override, kind: Any, given: Any) -> Any:
    value = given.text if isinstance(given, QuotedString) else given
    key = override.key_or_group
    if isinstance(kind, EnumMeta):
        return one_of(kind.__members__, key, as_typed(value))
    if kind is str and type(value) in (int, float):  # a folder may be called 1
        value = override.get_value_element_as_str()
    if type(value) is not kind or "${" in str(value):
        raise UserError(f"{override.input_line}: expected {_WORDS[kind]}, for instance {_example(key)}.")
    return value
