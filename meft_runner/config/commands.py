"""What the commands beside `meft-run` are asked: `meft-tables` and `meft-memory`."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import Enum

from meft_runner.config.fields import COUNT, expanded, setting
from meft_runner.config.methods import METHODS, Checkpointing
from meft_runner.config.run import Precision, WeightForm
from meft_runner.config.tasks import Head
from meft_runner.errors import UserError, nearest

Kernel = Enum("Kernel", ["materialised", "flash"])  # of attention, on the machine whose memory is asked about
Format = Enum("Format", ["table", "json", "csv", "markdown"])
Sweep = Enum("Sweep", ["length", "depth", "batch"])
_SWITCH = {"true": True, "false": False}


@dataclass
class TablesSettings:
    """What `meft-tables` reads and writes.

    Attributes:
        output_dir: the folder of the runs.
        tables_dir: receives tables and figures as files; None to print tables only.
        report: write all of them as one page too; `tables_dir` is then `tables` unless set.
    """

    output_dir: str = "runs"
    tables_dir: str | None = None
    report: bool = False


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


def parse_tables(overrides: Sequence[str]) -> TablesSettings:
    """Reads the arguments of `meft-tables`, written as key=value.

    Raises:
        UserError: an argument has another form, is not known or is given twice.
    """
    asked = TablesSettings()
    known = [field.name for field in fields(TablesSettings)]
    given: set[str] = set()
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not value.strip():
            raise UserError(f"{override}: expected key=value with one of {', '.join(known)}.")
        if key not in known:
            raise UserError(f"{key}: no such setting, {nearest(key, known)}expected one of {', '.join(known)}.")
        if key in given:
            raise UserError(f"{override}: {key} is given twice. Leave one out.")
        if key == "report" and value not in _SWITCH:
            raise UserError(f"report={value}: expected true or false.")
        given.add(key)
        setattr(asked, key, _SWITCH[value] if key == "report" else expanded(key, value))
    if asked.report and asked.tables_dir is None:
        asked.tables_dir = "tables"
    return asked
