"""The cases of a question: every combination of what is asked."""

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache
from itertools import product

from transformers import AutoConfig

from meft_runner.backbones import positions
from meft_runner.config import (
    METHODS,
    FullSettings,
    Head,
    MemorySettings,
    MethodSettings,
    PeftSettings,
    Settings,
    Sweep,
)
from meft_runner.config.checks import refusal
from meft_runner.config.compatibility import services
from meft_runner.config.fields import settings_of
from meft_runner.errors import UserError, nearest
from meft_runner.memory_report.case import Case, model_config
from meft_runner.run.composing import composed

_USUAL_LENGTHS = [128]  # tokens, where none are asked for
SWEPT_DEPTHS = (6, 12, 24, 48, 96)
SWEPT_BATCHES = (1, 2, 4, 8, 16, 32, 64)
SWEPT_LENGTHS = tuple(32 * 2**power for power in range(12))  # those of them that the model reads
_OF_CONFIG = "backbone.config."


def cases(asked: MemorySettings, overrides: Sequence[str] = ()) -> list[Case]:
    """Returns every combination of what was asked.

    Args:
        asked: lists of what to combine.
        overrides: settings of a run that hold for every case that has them, such as method.chunks=4.

    Raises:
        UserError: a setting does not fit, or would have no effect.
    """
    _check_sizes(asked.backbone, overrides)
    runs = [_composed(backbone, method, overrides) for backbone, method in product(asked.backbone, asked.method)]
    _check_effects(runs, asked, overrides)
    found = []
    for run in runs:
        lengths = [None] if Head.image in run.backbone.heads else asked.length or _USUAL_LENGTHS
        for own, batch, length, precision, attention in product(
            _with_checkpointing(run.method, asked), asked.batch, lengths, asked.precision, asked.attention
        ):
            case = Case(run.backbone, own, batch, length, precision, attention, asked.accumulating)
            found += _swept(case, asked.sweep)
    if (asked.length is not None or asked.sweep is Sweep.length) and all(case.length is None for case in found):
        raise UserError(f"length: backbone={','.join(asked.backbone)} reads images, which have a length of their own.")
    for case in found:
        case.config()  # refuses what the model does not read
    return found


def _with_checkpointing(method: MethodSettings, asked: MemorySettings) -> list[MethodSettings]:
    """Returns a method with and without checkpointing as asked; as it is where it is reversible."""
    if isinstance(method, FullSettings | PeftSettings) and not method.reverses:
        return [replace(method, checkpointing=on) for on in asked.checkpointing or [False]]
    return [method]


def _composed(backbone: str, method: str, overrides: Sequence[str]) -> Settings:
    task = next(service.tasks[0] for service in services().values() if backbone in service.backbones)  # any it does
    own = [_added(override) for override in overrides if _applies(override, backbone, method)]
    return composed([f"backbone={backbone}", f"method={method}", f"task={task}", *own])


def _applies(override: str, backbone: str, method: str) -> bool:
    """Tells whether a setting is one of this backbone or method; others of the table may have it."""
    key = override.partition("=")[0]
    group, _, name = key.partition(".")
    if key.startswith(_OF_CONFIG):
        return key.removeprefix(_OF_CONFIG) in _sizes(backbone)
    return group != "method" or name in {field.name for field in fields(METHODS[method])}


def _added(override: str) -> str:
    """Lets sizes be set that are not among those that make the backbone what it is."""
    return f"++{override}" if override.startswith(_OF_CONFIG) else override


def _check_effects(runs: Sequence[Settings], asked: MemorySettings, overrides: Sequence[str]) -> None:
    """Refuses settings of methods that none of the runs reads."""
    for key in (override.partition("=")[0] for override in overrides):
        refusals = [refusal(run, *each) for run in runs for each in settings_of(run) if each[0] == key]
        if key.startswith("method.") and refusals and refusals[0] and all(refusals):
            raise UserError(refusals[0])
    if asked.checkpointing is not None and all(run.method.reverses for run in runs):
        raise UserError(
            f"checkpointing: the layers of method={','.join(asked.method)} are reversible here, and keep nothing to "
            "compute again. Leave it out."
        )


def _check_sizes(backbones: Sequence[str], overrides: Sequence[str]) -> None:
    """Refuses sizes that no model of those asked for has."""
    for key in (override.partition("=")[0] for override in overrides):
        known = {name for backbone in backbones for name in _sizes(backbone)}
        if key.startswith(_OF_CONFIG) and key.removeprefix(_OF_CONFIG) not in known:
            hint = nearest(key.removeprefix(_OF_CONFIG), known)
            raise UserError(f"{key}: {','.join(backbones)} has no such size, {hint}expected one of its config.json.")


@cache
def _sizes(backbone: str) -> frozenset[str]:
    """Returns what a backbone's config.json may say."""
    config = AutoConfig.for_model(_composed(backbone, "full", []).backbone.model_types[0])
    return frozenset({*config.to_dict(), *config.attribute_map})


def _swept(case: Case, sweep: Sweep | None) -> list[Case]:
    if sweep is Sweep.depth:
        return [replace(case, depth=depth) for depth in SWEPT_DEPTHS]
    if sweep is Sweep.batch:
        return [replace(case, batch_size=batch) for batch in SWEPT_BATCHES]
    if sweep is Sweep.length and case.length is not None:
        longest = positions(model_config(case.backbone))
        return [replace(case, length=length) for length in SWEPT_LENGTHS if length <= longest]
    return [case]
