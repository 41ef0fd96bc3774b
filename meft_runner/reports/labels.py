"""What a run is called in tables and figures: its backbone, task and method, with what sets each apart."""

from collections.abc import Collection
from functools import cache
from typing import Any

import pandas as pd
from omegaconf import MISSING, OmegaConf

from meft_runner.config import DEPTH_NAMES, METHODS, Norm
from meft_runner.methods.variants import VARIANTS
from meft_runner.records.schema import CompleteRecord


def method_label(record: CompleteRecord, without: Collection[str] = ()) -> str:
    """Returns the method's name with what sets it apart from its defaults: "meft1 (reversal=float)".

    Args:
        record: of a run.
        without: settings that are not to be named, since they are on an axis or in a column.
    """
    method = record.config.method.plain()
    name = method.pop("name")
    defaults = _defaults(name, record.config.backbone.norm)
    named = {key: value for key, value in method.items() if key not in without}
    changed = [f"{key}={value}" for key, value in named.items() if defaults.get(key, MISSING) not in (MISSING, value)]
    return f"{name} ({', '.join(changed)})" if changed else name


def task_label(record: CompleteRecord) -> str:
    """Returns the task's name, marked where its rows are made up or are not all of them: "cola (2000 rows)"."""
    task = record.config.task
    if record.data.synthetic:
        return f"{task.name} (synthetic)"
    limits = {"rows": task.max_train_rows, "development rows": task.max_eval_rows}
    marks = [f"{limit} {what}" for what, limit in limits.items() if limit is not None]
    return f"{task.name} ({', '.join(marks)})" if marks else task.name


def backbone_label(record: CompleteRecord) -> str:
    """Returns the backbone's name, marked where its layers are stacked: "minilm (repeat=4)"."""
    backbone = record.config.backbone
    times = backbone.repeat or 1
    return f"{backbone.name} (repeat={times})" if times > 1 else backbone.name


def layer_count(record: CompleteRecord) -> int | None:
    """Returns how many layers the model of a run has, all stacks together; None where its settings do not say."""
    backbone = record.config.backbone
    sizes = backbone.config
    stacks = [sizes[key] for key in DEPTH_NAMES if key in sizes]
    return sum(stacks) * (backbone.repeat or 1) or None


def in_method_order(table: pd.DataFrame) -> pd.DataFrame:
    """Sorts rows by backbone, then by method: full fine-tuning first, MEFT last."""
    order = list(METHODS)
    rank = table["method"].map(lambda label: (order.index(label.split()[0]), label))
    return table.assign(_rank=rank).sort_values(["backbone", "_rank"]).drop(columns="_rank").reset_index(drop=True)


@cache
def _defaults(method: str, norm: str | None) -> dict[str, Any]:
    """Returns the settings that a method has where none are given, on models with this place of the LayerNorm."""
    defaults = OmegaConf.to_container(OmegaConf.structured(METHODS[method]), enum_to_str=True)
    variant = VARIANTS.get(method)
    if variant is not None:
        merge = None if norm is None else list(variant.merge[Norm[norm]])
        defaults |= {"scale_1": variant.scale_1, "scale_2": variant.scale_2, "merge": merge}  # type: ignore[operator]
    return defaults  # type: ignore[return-value]
