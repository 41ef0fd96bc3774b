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
from meft_runner.config.checks import refusal, weights_hindrance
from meft_runner.config.compatibility import services
from meft_runner.config.fields import settings_of
from meft_runner.config.methods import Checkpointing
from meft_runner.errors import UserError, nearest
from meft_runner.memory_report.case import Case, model_config
from meft_runner.run.composing import composed

_USUAL_LENGTHS = [128]  # tokens, where none are asked for
SWEPT_DEPTHS = (6, 12, 24, 48, 96)
SWEPT_BATCHES = (1, 2, 4, 8, 16, 32, 64)
SWEPT_LENGTHS = tuple(32 * 2**power for power in range(13))  # those of them that the model reads
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
    _check_heads(runs, asked)
    found: list[Case] = []
    hindered: list[str] = []  # full fine-tuning, for instance, trains float32 weights alone
    heads: list[Head | None] = [*asked.head] if asked.head else [None]
    for run in runs:
        lengths = [None] if Head.image in run.backbone.heads else asked.length or _USUAL_LENGTHS
        kinds = _kinds(run, runs, asked)
        for own, weights, head, batch, length, precision, attention in product(
            kinds, asked.weights, heads, asked.batch, lengths, asked.precision, asked.attention
        ):
            refused = weights_hindrance(weights, own, precision)
            hindered += [refused] if refused else []
            if refused is None:
                backbone = replace(run.backbone, weights=weights)
                case = Case(backbone, own, batch, length, precision, attention, asked.accumulating, head=head)
                found += _swept(case, asked.sweep)
    if not found:
        raise UserError(hindered[0].replace("backbone.weights", "weights").replace("training.precision", "precision"))
    if (asked.length is not None or asked.sweep is Sweep.length) and all(case.length is None for case in found):
        raise UserError(f"length: backbone={','.join(asked.backbone)} reads images, which have a length of their own.")
    for case in found:
        case.config()  # refuses what the model does not read
    return found


def _kinds(run: Settings, runs: Sequence[Settings], asked: MemorySettings) -> list[MethodSettings]:
    """Returns a run's method with the kinds of checkpointing that are asked for; as it is where it is reversible.

    Where none are asked for, they are the rivals of reversible layers: a table with those has all kinds of one method,
    LoRA or else the first that has them.
    """
    if not _recomputes(run.method):
        return [run.method]
    kinds = [Checkpointing.false] if asked.checkpointing is None else asked.checkpointing
    having = [each.method.name for each in runs if _recomputes(each.method)]
    has_rivals = any(each.method.reverses for each in runs) and asked.sweep is None
    has_rivals = has_rivals and not (asked.timeline or asked.measure)
    if asked.checkpointing is None and has_rivals and run.method.name == ("lora" if "lora" in having else having[0]):
        kinds = list(Checkpointing)
    return [replace(run.method, checkpointing=kind.value) for kind in kinds]  # type: ignore[call-arg]


def _recomputes(method: MethodSettings) -> bool:
    return isinstance(method, FullSettings | PeftSettings) and not method.reverses


def _check_heads(runs: Sequence[Settings], asked: MemorySettings) -> None:
    """Refuses a head that a backbone has not."""
    for head, run in product(asked.head or [], runs):
        if head not in run.backbone.heads:
            having = ", ".join(each.name for each in run.backbone.heads)
            raise UserError(f"head={head.name}: backbone={run.backbone.name} has no such head, expected {having}.")


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
