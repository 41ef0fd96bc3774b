"""What a command line asks for as a whole: its settings before anything is swept over, and whether it is a sweep."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from meft_runner.config import SPACE
from meft_runner.config.overrides import GROUPS, check_level, check_overrides, check_single, read_overrides
from meft_runner.errors import UserError
from meft_runner.run.composing import compose_config

_OWN_CONFIG = ("config_path", "config_name", "config_dir", "experimental_rerun")
_MOST_RUNS = 10_000
_INFORMATION = ("help", "hydra_help", "cfg", "info", "shell_completion")


@dataclass(frozen=True)
class CommandLine:
    """The arguments of `meft-run`, read.

    Attributes:
        overrides: settings as they were typed, key=value.
        multirun: whether -m was typed.
        informs: whether Hydra is to show something, as with --help and --cfg, and nothing runs.
    """

    overrides: list[Override]
    multirun: bool
    informs: bool


def read_arguments(arguments: Sequence[str]) -> CommandLine:
    """Reads the arguments of `meft-run`.

    Raises:
        UserError: an option is not known, or would bring in settings from elsewhere; a setting cannot be meant.
        HydraException: a setting cannot be read.
    """
    parser = get_args_parser()
    parser.exit_on_error, parser.allow_abbrev = False, False
    try:
        flags, unknown = parser.parse_known_intermixed_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UserError(f"{error}. meft-run --help says what there is.") from error
    if unknown:
        raise UserError(f"{unknown[0]}: no such option. meft-run --help says what there is.")
    for name in _OWN_CONFIG:
        if getattr(flags, name) is not None:
            raise UserError(
                f"--{name.replace('_', '-')}: settings come from the program's own conf/. Give others as key=value."
            )
    if (flags.resolve or flags.package) and not flags.cfg:
        raise UserError("--resolve and --package change what --cfg shows: add --cfg job.")
    if flags.shell_completion and not flags.overrides:
        raise UserError("--shell-completion: expected install=SHELL, uninstall=SHELL or query=SHELL after it.")
    overrides = read_overrides(flags.overrides)
    if not flags.shell_completion:
        check_overrides(overrides)
        _check_size(overrides)
    return CommandLine(overrides, flags.multirun, any(getattr(flags, name) for name in _INFORMATION))


def with_space(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments of a command so that Hydra lets settings be searched that conf/ does not search."""
    return [f"++{text}" if text.startswith(f"{SPACE}.") else text for text in arguments]


def _check_size(overrides: Sequence[Override]) -> None:
    """Makes sure that a sweep can be composed, which is done as a whole before its first run.

    Raises:
        UserError: it has too many runs.
    """
    runs = math.prod(map(_count, overrides))
    if runs > _MOST_RUNS:
        largest = max(overrides, key=_count).input_line
        raise UserError(f"{largest}: makes a sweep of {runs:,} runs, expected at most {_MOST_RUNS:,}. Sweep in parts.")


def _count(override: Override) -> int:
    """Returns how many values an override has, of which there may be more than the memory holds."""
    match override.value():
        case RangeSweep(start=float() | int() as start, stop=float() | int() as stop, step=step):
            if not step:
                raise UserError(f"{override.input_line}: a step of 0 comes to no end. Give another one.")
            return max(1, int(min((stop - start) / step, 1e18)))
        case ChoiceSweep(list=values):
            return len(values)
    return 1


def whole(line: CommandLine) -> DictConfig:
    """Composes what holds for a command as a whole, with Hydra's own part under `hydra`.

    Of a sweep, settings that are swept over are left out, and those of a group that may be.

    Raises:
        UserError: something was typed that only a sweep reads, or that the experiment does not read.
        HydraException: a setting is not known.
    """
    may_sweep = line.multirun or any(override.key_or_group == "experiment" for override in line.overrides)
    if not may_sweep:
        check_single(line.overrides)
    kept = [
        str(override.input_line)
        for override in line.overrides
        if not may_sweep or not (override.is_sweep_override() or _is_of_a_group(override))
    ]
    config = compose_config(kept, with_hydra=True)
    check_level(line.overrides, config)
    if line.multirun:
        with open_dict(config):
            config.hydra.mode = RunMode.MULTIRUN
    return config


def for_the_sweeper(overrides: Sequence[Override]) -> list[str]:
    """Returns the settings of a sweep as Hydra's sweeper is to get them.

    Hydra first composes a sweep without what is swept over; `-m method=full,lora method.checkpointing=true`
    would then be held against the default method, which has no such setting. So settings of a group become
    part of the sweep, as choices of one value.
    """
    return [
        f"{override.get_key_element()}=choice({override.get_value_element_as_str()})"
        if _is_of_a_group(override) and not override.is_sweep_override()
        else str(override.input_line)
        for override in overrides
    ]


def _is_of_a_group(override: Override) -> bool:
    """Tells whether an override changes a setting of the backbone, the task or the method."""
    group, dot, _ = override.key_or_group.partition(".")
    return bool(dot) and group in GROUPS
