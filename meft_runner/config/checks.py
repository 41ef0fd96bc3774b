"""Checks of settings that types alone cannot make: ranges, and values that must go together."""

import os
from collections.abc import Collection
from typing import Any

from omegaconf import DictConfig, OmegaConf

from meft_runner.config import (
    FullSettings,
    LoraSettings,
    MeftSettings,
    MethodSettings,
    PeftReversal,
    PeftSettings,
    Precision,
    Settings,
    SplitSettings,
    Study,
    WeightForm,
)
from meft_runner.config.compatibility import check_compatible
from meft_runner.config.coupling import parse_merge
from meft_runner.config.fields import Notes, as_typed, expanded, hindrance, settings_of
from meft_runner.config.overrides import GROUPS, check_name
from meft_runner.config.sizes import parse_bytes
from meft_runner.errors import UserError

_LARGEST_DENOMINATOR = 256  # remainders are packed to a byte at the most


def parse(config: DictConfig, typed: Collection[str] = ()) -> Settings:
    """Turns a composed config into checked settings.

    Args:
        config: what Hydra composed of the registered schema.
        typed: keys that a user has given; with those, what cannot be set or has no effect is refused.

    Raises:
        UserError: a value is outside its range, or two values do not go together.
    """
    settings = OmegaConf.to_object(config)
    assert isinstance(settings, Settings)
    for key, value, notes in settings_of(settings):
        is_typed = key in typed or any(name.startswith(f"{key}.") for name in typed)
        if is_typed and (message := refusal(settings, key, value, notes)) is not None:
            raise UserError(message)
        if notes.is_path(value):
            _set(settings, key, expanded(key, value))
        if notes.words is not None:  # a quoted "true" is the same as one without quotes
            _set(settings, key, {as_typed(word): word for word in notes.words}.get(as_typed(value), value))
    check(settings)
    return settings


def _set(settings: Settings, key: str, value: object) -> None:
    group, _, name = key.rpartition(".")
    setattr(getattr(settings, group) if group else settings, name, value)


def refusal(settings: Any, key: str, value: object, notes: Notes) -> str | None:
    """Returns what to say of a setting that was given although it cannot be, or although nothing reads it."""
    group = key.partition(".")[0]
    if notes.fixed is not None:
        name = getattr(settings, group).name
        return f"{key}: comes from conf/{group}/{name}.yaml alone. {notes.fixed}"
    against = hindrance(settings, notes)
    if against is None or value is None:
        return None
    off = against == f"method.reversal={PeftReversal.off.name}"
    fix = "Add method.reversal=exact, or leave it out." if off else "Leave out one of them."
    return f"{key}={as_typed(value)}: has no effect with {against}. {fix}"


def check(settings: Settings) -> None:
    """Makes sure that settings can be meant.

    Raises:
        UserError: a value is outside its range, or two values do not go together.
    """
    for group in GROUPS:
        check_name(group, getattr(settings, group).name)
    check_compatible(settings.backbone, settings.task)
    check_ranges(settings)
    hindered = weights_hindrance(settings.backbone.weights, settings.method, settings.training.precision)
    if hindered is not None:
        raise UserError(hindered)
    if isinstance(settings.task, SplitSettings):
        _check_splits(settings.task)
    method = settings.method
    if isinstance(method, MeftSettings | PeftSettings) and method.reverses:
        check_reversal(method)
    elif settings.study is Study.gradients:
        fix = "Add method.reversal=exact, or take" if isinstance(method, PeftSettings) else "Take"
        raise UserError(f"study=gradients: looks at a reversal, method={method.name} has none. {fix} method=meft1.")


def check_ranges(settings: Any) -> None:
    """Makes sure that numbers are within the ranges that stand beside their settings, and words among the known ones.

    Raises:
        UserError: one is not.
    """
    for key, value, notes in settings_of(settings):
        if notes.within is not None and value is not None:
            low, high = notes.within
            for each in value if isinstance(value, list) else [value]:
                if not low <= each <= high:  # not a number fails this too
                    raise UserError(f"{key}={each}: expected {low} to {high}.")
        if notes.words is not None and (type(value), value) not in [(type(word), word) for word in notes.words]:
            *others, last = map(as_typed, notes.words)
            raise UserError(f"{key}={as_typed(value)}: expected {', '.join(others)} or {last}.")


def weights_hindrance(form: WeightForm, method: MethodSettings, precision: Precision) -> str | None:
    """Returns why a method cannot train beside weights of a form in a precision, and a way out; None if it can.

    Half-precision weights are computed with in their own precision, which autocast gives to the float32 that trains
    beside them. Quantised ones are computed with in any precision.
    """
    if form is not WeightForm.fp32 and isinstance(method, FullSettings):
        return (
            f"backbone.weights={form.name}: method={method.name} trains the weights themselves, as fp32. "
            "Leave it out, or take a method that freezes them, such as lora or meft1."
        )
    if form is WeightForm.int8 and isinstance(method, LoraSettings) and method.decomposed:
        return (
            f"backbone.weights=int8: method={method.name} reads the weights' columns, which peft cannot do in int8. "
            "Take backbone.weights=nf4, or method=lora."
        )
    if form.name in Precision.__members__ and form.name not in (WeightForm.fp32.name, precision.name):
        return (
            f"backbone.weights={form.name}: with training.precision={precision.name} weights of another precision "
            f"would have to be converted. Set training.precision={form.name}."
        )
    return None


def check_reversal(method: MeftSettings | PeftSettings) -> None:
    """Makes sure that the streams can be tied as asked, by the arithmetic of the reversal.

    Raises:
        UserError: they cannot.
    """
    if method.budget is not None:
        parse_bytes("method.budget", method.budget)
    if isinstance(method, MeftSettings):
        parse_merge(method.merge)
    elif method.checkpointing:
        raise UserError(
            f"method.checkpointing={as_typed(method.checkpointing)}: with method.reversal={method.reversal.name} "
            "layers keep nothing to compute again. Leave out one of them."
        )
    if method.offload and method.reversal.name == "exact" and all(scale == 1 for scale, _ in method.halves):
        raise UserError(
            "method.offload=true: a half with a scale of 1 keeps nothing, and here both have it. Leave it out."
        )
    for name, (scale, _) in zip(("scale_1", "scale_2"), method.halves, strict=False):
        unit = scale.numerator == 1 and scale.denominator <= _LARGEST_DENOMINATOR
        if method.reversal.name != "float" and not unit:
            least = 1 if isinstance(method, MeftSettings) else 2
            near = max(least, min(_LARGEST_DENOMINATOR, round(1 / scale)))
            raise UserError(
                f"method.{name}={getattr(method, name)}: reversal={method.reversal.name} divides integers: "
                f"expected 1/n, n up to {_LARGEST_DENOMINATOR}. Take for instance 1/{near}, or method.reversal=float."
            )


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


def check_environment() -> None:
    """Makes sure of what the hub's library reads from the environment when it is imported.

    Raises:
        UserError: it is no number of seconds.
    """
    for name in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"):
        text = os.environ.get(name, "0")
        if not text.isdecimal():
            raise UserError(f"{name}={text}: expected whole seconds in the environment, as in {name}=60.")


def _check_splits(task: SplitSettings) -> None:
    splits = [task.train_split, *task.eval_splits]
    if not task.eval_splits or len(set(splits)) < len(splits):
        raise UserError(
            f"task.eval_splits={task.eval_splits}: expected at least one split, each once, "
            f"other than {task.train_split}."
        )
