"""What the commands beside `meft-run` are asked: `meft-tables`, `meft-memory`, `meft-predict` and `meft-share`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import Enum, EnumMeta
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from meft_runner.config.fields import COUNT, expanded, notes_of, setting
from meft_runner.config.methods import METHODS, Checkpointing
from meft_runner.config.run import Precision, WeightForm
from meft_runner.config.tasks import Head
from meft_runner.errors import UserError, nearest, one_of

Kernel = Enum("Kernel", ["materialised", "flash"])  # of attention, on the machine whose memory is asked about
Format = Enum("Format", ["table", "json", "csv", "markdown"])
Sweep = Enum("Sweep", ["length", "depth", "batch"])
_SWITCH = {"true": True, "false": False}
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_Asked = TypeVar("_Asked")


@dataclass
class TablesSettings:
    """What `meft-tables` reads and writes.

    Attributes:
        output_dir: the folder of the runs.
        tables_dir: receives tables and figures as files; None to print tables only.
        report: write all of them as one page too; `tables_dir` is then `tables` unless set.
        overwrite: files of `tables_dir` that no earlier call has made, or that were changed since, are replaced too.
    """

    output_dir: str = setting("runs", path=True)
    tables_dir: str | None = setting(None, path=True)
    report: bool = False
    overwrite: bool = False


@dataclass
class MemorySettings:
    """What `meft-memory` predicts: every combination of the lists.

    Attributes:
        backbone: models.
        method: fine-tuning methods.
        checkpointing: kinds of gradient checkpointing (full and peft's methods, without reversal). Unless set, rows are
            without, and where one is of reversible layers, LoRA's (or the first method's) are of all kinds.
        batch: rows in one forward pass.
        length: tokens a row, 128 unless set; images have their own.
        precision: fp32, or autocast to bf16 or fp16.
        attention: scores in memory, or a fused kernel.
        weights: the form in which frozen weights are held, fp32 unless set.
        head: what the model is to do; a decoder is a language model unless set, others classify.
        accumulating: predict a step that adds to the gradients of an earlier pass.
        format: of what is printed.
        sweep: draw the curve over lengths, depths or batches.
        fit: a budget such as 24GiB; answers the largest batch and the largest length that it holds.
        timeline: draw the live bytes over one step.
        measure: measure the same steps on this machine, beside the prediction.
        output_dir: receives the figures.
    """

    backbone: list[str] = field(default_factory=lambda: ["roberta"])
    method: list[str] = field(default_factory=lambda: list(METHODS))
    checkpointing: list[Checkpointing] | None = None
    batch: list[int] = setting([32], COUNT)
    length: list[int] | None = setting(None, COUNT)
    precision: list[Precision] = field(default_factory=lambda: [Precision.fp32])
    attention: list[Kernel] = field(default_factory=lambda: [Kernel.materialised])
    weights: list[WeightForm] = field(default_factory=lambda: [WeightForm.fp32])
    head: list[Head] | None = None
    accumulating: bool = False
    format: Format = Format.table
    sweep: Sweep | None = None
    fit: str | None = None
    timeline: bool = False
    measure: bool = False
    output_dir: str = "memory"


@dataclass
class PredictSettings:
    """What `meft-predict` answers with the trained weights of a run: one of `input`, `split` and `prompt`.

    Attributes:
        run: the folder of a complete run.
        input: a file of new rows, JSON Lines, CSV, TSV or Parquet.
        split: a split of the run's own task.
        prompt: a text that a language model continues on the terminal.
        output: receives the answers, JSON Lines, CSV or Parquet; without it the scores are printed alone.
        overwrite: an output that is there already is replaced.
        batch_size: rows in one forward pass; as many as the run scored at once unless set.
        max_new_tokens: longest text that is generated; the run's `task.max_new_tokens` unless set.
        precision: fp32, or autocast to bf16 or fp16; the run's unless set.
    """

    run: str | None = setting(None, path=True)
    input: str | None = setting(None, path=True)
    split: str | None = None
    prompt: str | None = None
    output: str | None = setting(None, path=True)
    overwrite: bool = False
    batch_size: int | None = setting(None, (1, 10**6))
    max_new_tokens: int | None = setting(None, (1, 10**6))
    precision: Precision | None = None


@dataclass
class ShareSettings:
    """What `meft-share` pushes to the model hub.

    Attributes:
        run: the folder of a complete run.
        to: the repository, owner/name.
        private: a repository that is made is visible to its owner alone.
        overwrite: files of the same names that the repository holds already are replaced.
    """

    run: str | None = setting(None, path=True)
    to: str | None = None
    private: bool = False
    overwrite: bool = False


def parse_tables(overrides: Sequence[str]) -> TablesSettings:
    """Reads the arguments of `meft-tables`, written as key=value.

    Raises:
        UserError: an argument has another form, is not known, is given twice or has no effect.
    """
    asked, _ = read_literally(TablesSettings, overrides)
    if asked.report and asked.tables_dir is None:
        asked.tables_dir = "tables"
    if asked.overwrite and asked.tables_dir is None:
        raise UserError("overwrite=true: has no effect without tables_dir=DIR. Leave it out.")
    return asked


def read_literally(
    schema: type[_Asked], overrides: Sequence[str], of_a_run: bool = False
) -> tuple[_Asked, dict[str, str]]:
    """Reads arguments written as key=value, where a value is what stands there: no lists, no quotes.

    Args:
        schema: the settings that there are.
        overrides: what was typed.
        of_a_run: keys with a dot, settings of a run, may be given too.

    Returns:
        The settings, and what was given of those with a dot.

    Raises:
        UserError: an argument has another form, is not known or is given twice, or a value is of another type.
    """
    known = {each.name: each for each in fields(schema)}  # type: ignore[arg-type]  # a dataclass
    kinds = get_type_hints(schema)
    given: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not value.strip():
            raise UserError(f"{override}: expected key=value with one of {', '.join(known)}.")
        if key not in known and not (of_a_run and "." in key):
            raise UserError(f"{key}: no such setting, {nearest(key, known)}expected one of {', '.join(known)}.")
        if key in given:
            raise UserError(f"{override}: {key} is given twice. Leave one out.")
        is_path = key not in known or notes_of(known[key]).path
        given[key] = expanded(key, value) if is_path else _read(key, value, kinds[key])
    own = {key: value for key, value in given.items() if key in known}
    return schema(**own), {key: value for key, value in given.items() if key not in known}


def _read(key: str, value: str, kind: Any) -> Any:
    """Returns a value in its type."""
    kind = next((each for each in get_args(kind) if each is not NoneType), kind)
    if kind is bool:
        if value not in _SWITCH:
            raise UserError(f"{key}={value}: expected true or false.")
        return _SWITCH[value]
    if kind is int:
        if not _WHOLE.fullmatch(value):
            raise UserError(f"{key}={value}: expected a whole number.")
        return int(value)
    if isinstance(kind, EnumMeta):
        return one_of(kind.__members__, key, value)
    return value
