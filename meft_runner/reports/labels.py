"""What a run is called in tables and figures: its backbone, task and method, with what sets each apart."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

import pandas as pd
from omegaconf import MISSING

from meft_runner.config import (
    DEPTH_NAMES,
    METHODS,
    TASKS,
    LanguageSettings,
    ReversibleSettings,
    WeightForm,
    kind_with,
    method_version,
)
from meft_runner.config.coupling import fraction_of
from meft_runner.config.fields import Notes, notes_of
from meft_runner.config.methods import KEEPS_MEAN
from meft_runner.records.schema import CompleteRecord
from meft_runner.reports.apart import Label, digest, file_name, one_line, told_apart
from meft_runner.run.composing import method_defaults

LANGUAGE_KINDS = tuple(kind for kind, schema in TASKS.items() if issubclass(schema, LanguageSettings))
_SHARED = {field.name for field in fields(ReversibleSettings)}  # named behind those of a method alone
_EXACT = 2**53  # integers below it are floating-point numbers


def method_label(record: CompleteRecord, without: Collection[str] = ()) -> str:
    """Returns the method's name with what sets it apart from its defaults: "meft1 (reversal=float)".

    Frozen weights of another form than fp32 are part of how a model is trained: "lora (weights=nf4)"; so is a version
    of the method in which this program does not train: "ia3 (version 1)". Settings that are on an axis or in a column
    are left out with `without`.
    """
    method = record.config.method.plain()
    name = method.pop("name")
    defaults = _defaults(name, record.config.backbone.norm)
    meant, usual = _in_one_form(method), _in_one_form(defaults)
    changed = [
        f"{key}={meant[key]}" for key in sorted(method, key=_SHARED.__contains__)  # whatever the record's order is
        if key not in without and _has_effect(name, key, defaults | method)
        and usual.get(key, MISSING) not in (MISSING, meant[key])
    ]  # fmt: skip
    form = record.config.backbone.weights
    changed += [] if form == WeightForm.fp32.name else [f"weights={form}"]
    version = record.method_version
    changed += [] if version == method_version(record.config.method.plain()) else [f"version {version}"]
    return str(Label(name, tuple(map(one_line, changed))))


def task_labels(records: Sequence[CompleteRecord]) -> list[str]:
    """Returns the name of each record's task, marked where its rows are made up, the user's, or not all of them.

    Where runs of a task were on different rows, or have read them differently, their labels differ.
    """
    marks = (_place, _rows, _version, _fingerprint, _scored_tokens, _data_digest)
    return told_apart(records, _task_label, _data, marks)


def backbone_labels(records: Sequence[CompleteRecord], with_depth: bool = True) -> list[str]:
    """Returns the name of each record's backbone; where models of one name have different weights, they differ.

    With `with_depth`, a backbone whose layers are stacked is another: "minilm (repeat=4)".
    """
    label = _backbone_label if with_depth else lambda record: Label(record.config.backbone.name)
    return told_apart(records, label, _weights, (_model_place, _weights_name, _weights_digest))


def task_kind(record: CompleteRecord) -> str | None:
    """Returns the kind of a run's task; that of an earlier version follows from its settings, or is not known."""
    if record.data.kind is not None:
        return record.data.kind
    try:
        return kind_with(record.config.task.plain())
    except ValueError:
        return None


def is_of_texts(record: CompleteRecord) -> bool:
    """Tells whether a run is of a language model that writes, whose score follows from its loss and is no share."""
    return task_kind(record) in LANGUAGE_KINDS


def layer_count(record: CompleteRecord) -> int | None:
    """Returns how many layers the model of a run has, all stacks together; None where its record does not say."""
    backbone = record.config.backbone
    if record.parameters.layers is not None or backbone.path is not None:  # whose sizes are not those of the settings
        return record.parameters.layers
    stacks = [size for name in DEPTH_NAMES if isinstance(size := backbone.config.get(name), int)]
    return sum(stacks) * (backbone.repeat or 1) or None


def in_method_order(table: pd.DataFrame) -> pd.DataFrame:
    """Sorts rows by backbone, then by method: full fine-tuning first, MEFT last."""
    order = list(METHODS)
    rank = table["method"].map(lambda label: (order.index(label.split()[0]), label))
    return table.assign(_rank=rank).sort_values(["backbone", "_rank"]).drop(columns="_rank").reset_index(drop=True)


def in_task_order(table: pd.DataFrame) -> pd.DataFrame:
    """Sorts rows by backbone, then by task, and those of a task as `in_method_order` does."""
    return in_method_order(table).sort_values(["backbone", "task"], kind="stable", ignore_index=True)


def _task_label(record: CompleteRecord) -> Label:
    task = record.config.task
    marks = ["synthetic"] if record.data.synthetic else []
    marks += [file_name(task.train_file)] if task.train_file else []
    marks += [task.hub] if task.hub and task.name in LANGUAGE_KINDS and not task.train_file else []
    limits = {} if record.data.synthetic else {"rows": task.max_train_rows, "development rows": task.max_eval_rows}
    return Label(task.name, (*marks, *(f"{limit} {what}" for what, limit in limits.items() if limit is not None)))


def _data(record: CompleteRecord) -> str:
    """Returns what scores must have in common to be compared: the rows, and what was made of them.

    A loss is a mean over tokens, which are others where rows were cut shorter or written by another chat template.
    """
    rows = [split.fingerprint for split in record.data.splits.values()]
    of_tokens = [_scored_tokens(record), _template(record)] if is_of_texts(record) else []
    return digest([rows, record.data.version, record.data.labels, *of_tokens])


def _place(record: CompleteRecord) -> str:
    task = record.config.task
    return file_name(task.eval_file or task.data_dir or record.data.source or "not recorded")


def _rows(record: CompleteRecord) -> str:
    return " and ".join(f"{split.rows} {name} rows" for name, split in record.data.splits.items())


def _version(record: CompleteRecord) -> str:
    return f"version {record.data.version or 'not recorded'}"


def _fingerprint(record: CompleteRecord) -> str:
    first = next(iter(record.data.splits.values()), None)
    return f"data {'not recorded' if first is None else first.fingerprint[:8]}"


def _scored_tokens(record: CompleteRecord) -> str:
    last = next(reversed(record.data.splits.values()), None)  # of development; those of training are first
    tokens = None if last is None else last.learnt_tokens
    return "scored tokens not recorded" if tokens is None else f"{tokens:,} scored tokens"


def _template(record: CompleteRecord) -> str | None:
    """Returns the digest of a chat template's file, or the setting where there is none."""
    digests = {name.split("/")[0]: file.sha256 for name, file in (record.files or {}).items()}
    return digests.get("task.chat_template", record.config.task.chat_template)


def _data_digest(record: CompleteRecord) -> str:
    return f"data {_data(record)}"


def _backbone_label(record: CompleteRecord) -> Label:
    backbone = record.config.backbone
    times = backbone.repeat or 1
    return Label(backbone.name, (f"repeat={times}",) if times > 1 else ())


def _weights(record: CompleteRecord) -> str | None:
    return None if record.weights is None else record.weights.sha256 or record.weights.revision


def _model_place(record: CompleteRecord) -> str:
    source = None if record.weights is None else record.weights.source
    return file_name(record.config.backbone.path or source or "not recorded")


def _weights_name(record: CompleteRecord) -> str:
    return f"weights {(_weights(record) or 'not recorded')[:12]}"


def _weights_digest(record: CompleteRecord) -> str:
    return f"weights {digest(_weights(record))}"


def _in_one_form(method: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a method's settings, equal ones written alike: a scale of 0.1 is 1/10, a mu of 9/10 beside it 1-scale."""
    named = dict(method)
    scales = {key: fraction_of(method[key]) for key in ("scale_1", "scale_2") if key in method}
    named |= {key: str(scale) for key, scale in scales.items() if scale is not None}
    mu = fraction_of(method.get("mu"))
    if mu is not None and abs(mu) < _EXACT:
        means = {None if scale is None else 1 - scale for scale in scales.values() if scale != 1}
        named["mu"] = KEEPS_MEAN if means == {mu} else f"{float(mu):.6g}"
    elif isinstance(method.get("mu"), str):
        named["mu"] = method["mu"].replace(" ", "")
    merge = method.get("merge")
    if isinstance(merge, list) and all(isinstance(weight, int | float) and abs(weight) < _EXACT for weight in merge):
        named["merge"] = [float(weight) for weight in merge]
    return named


def _has_effect(name: str, key: str, method: Mapping[str, Any]) -> bool:
    """Tells whether a setting changes what a method does, beside its other settings."""
    notes = _notes(name).get(key)
    return notes is None or (
        not notes.beside
        and all(method.get(other.removeprefix("method.")) in values for other, values in notes.only.items())
    )


@cache
def _notes(name: str) -> dict[str, Notes]:
    return {each.name: notes_of(each) for each in fields(METHODS[name])}


_defaults = cache(method_defaults)
