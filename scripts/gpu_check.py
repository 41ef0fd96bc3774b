"""Checks on a CUDA GPU what the tests check on CPU: exactness, memory, speed, and the largest batch.

    python scripts/gpu_check.py                          # every part, at most 8 minutes; into results/gpu
    python scripts/gpu_check.py --parts exactness,speed  # some parts; the files keep what they have of the others
    python scripts/gpu_check.py --cpu                    # small shapes without a GPU, printed only

Weights are random: neither exactness nor time nor memory depends on them. The files are written anew after
every figure that took long, so a crash or a time limit loses nothing.
"""

import argparse
import gc
import json
import math
import os
import re
import shlex
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from meft_runner import laboratory, settings
from meft_runner.checks import parse
from meft_runner.cli import config_directory
from meft_runner.laboratory import Case
from meft_runner.memory import AUTOCAST
from meft_runner.methods.meft import reversible_stacks
from meft_runner.records.record import environment, now
from meft_runner.records.tables import print_table
from meft_runner.settings import Precision

KERNELS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
}
VARIANTS = ("meft1", "meft2", "meft3")
REFERENCE = "lora + checkpointing"
MEMORY_METHODS = ("full", "lora", REFERENCE, "meft1", "meft3")
ALL_METHODS = ("full", "full + checkpointing", "lora", REFERENCE, "ia3", "ia3 + checkpointing", *VARIANTS)
LOSS_SCALE = 1024.0  # a power of two: keeps gradients of fp16 above 0 and changes no bit of the others
WARM_UP_STEPS = 2
CAPACITY_GIB = 16  # of memory that the largest batch may take, so that devices compare and large ones end in time
LARGEST_BATCH = 1024
_MIB, _GIB = 2**20, 2**30

Row = dict[str, Any]
Unit = tuple[str, Callable[[], list[Row]]]  # a name, and what makes its rows of the table


@dataclass(frozen=True)
class Shape:
    """A model and a batch; `sizes` are overrides of the backbone's own."""

    backbone: str
    batch_size: int
    length: int
    sizes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What is run on a kind of device; the largest batch is looked for at the first of the `speed` shapes' model."""

    device: torch.device
    exactness: Shape
    memory: tuple[tuple[Shape, Precision], ...]
    speed: tuple[Shape, ...]
    rounds: int
    steps: int


def _sizes(hidden: int, layers: int, *inner: str) -> tuple[str, ...]:
    own = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": hidden // 32}
    return tuple(f"backbone.config.{name}={value}" for name, value in own.items()) + inner


_ROBERTA, _OPT = Shape("roberta", 32, 128), Shape("opt", 8, 512)
_SMALL_ROBERTA = Shape("roberta", 2, 16, _sizes(64, 2, "backbone.config.intermediate_size=128"))
_SMALL_OPT = Shape("opt", 2, 32, _sizes(64, 2, "backbone.config.ffn_dim=128", "backbone.config.word_embed_proj_dim=64"))
GPU = Plan(
    device=torch.device("cuda"),
    exactness=Shape("roberta", 32, 128, _sizes(256, 12, "backbone.config.intermediate_size=1024")),
    memory=((_ROBERTA, Precision.fp32), (_ROBERTA, Precision.bf16), (_OPT, Precision.bf16)),
    speed=(_ROBERTA, _OPT),
    rounds=3,
    steps=3,
)
CPU = Plan(
    device=torch.device("cpu"),
    exactness=_SMALL_ROBERTA,
    memory=((_SMALL_ROBERTA, Precision.fp32), (_SMALL_OPT, Precision.bf16)),
    speed=(_SMALL_ROBERTA,),
    rounds=2,
    steps=1,
)


def case_of(shape: Shape, method: str, precision: Precision, *overrides: str) -> Case:
    """Returns the case of a method by the name it has in the tables, such as "lora + checkpointing"."""
    name, _, checkpointing = method.partition(" + ")
    chosen = [f"backbone={shape.backbone}", f"method={name}", *shape.sizes, *overrides]
    with initialize_config_dir(config_directory(), version_base="1.3"):
        run = parse(compose("config", [*chosen, "method.checkpointing=true"] if checkpointing else chosen))
    return Case(run.backbone, run.method, shape.batch_size, shape.length, precision)


def build(case: Case, device: torch.device) -> nn.Module:
    """Returns a case's model on a device, with the attention that training uses: torch's fused kernels."""
    with device:
        model = laboratory.build(case)
    model.set_attn_implementation("sdpa")
    return model.train()


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """Returns the Trainer's optimizer over what trains."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)


def batch_of(case: Case, device: torch.device, padded: bool = False) -> dict[str, Tensor]:
    """Returns random inputs with labels; with `padded`, half of the first row is padding."""
    ids = torch.randint(5, 1000, (case.batch_size, case.length), device=device)
    batch = {"input_ids": ids, "labels": torch.randint(0, 2, (case.batch_size,), device=device)}
    if padded:
        ids[0, case.length // 2 :] = 1
        batch["attention_mask"] = (ids != 1).long()
    return batch


def loss_of(model: nn.Module, batch: dict[str, Tensor], precision: Precision) -> Tensor:
    """Runs the model forward under the precision's autocast."""
    dtype = AUTOCAST[precision.name]
    with torch.autocast(batch["labels"].device.type, dtype=dtype, enabled=dtype is not None):
        return model(**batch).loss


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor], precision: Precision
) -> None:
    """Runs one step of training."""
    loss_of(model, batch, precision).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def release() -> None:
    """Gives what nobody refers to any more back to the device."""
    gc.collect()
    torch.cuda.empty_cache()


def first_line(error: Exception) -> str:
    """Returns an error's kind and the first line of its message."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


@dataclass(frozen=True)
class Pass:
    """What one forward and backward pass left: loss, gradients by layer, and stream elements that came back changed."""

    loss: float
    gradients: dict[str, Tensor]
    mismatches: int

    @classmethod
    def of(cls, plan: Plan, method: str, reversal: str, precision: Precision, kernel: str, padded: bool) -> "Pass":
        """Runs it; equal arguments mean equal weights, inputs and dropout."""
        case = case_of(plan.exactness, method, precision, f"method.reversal={reversal}", "method.strict=false")
        torch.manual_seed(0)
        model, batch = build(case, plan.device), batch_of(case, plan.device, padded)
        with sdpa_kernel(KERNELS[kernel]):  # over backward too: reversal computes the layers once more there
            loss = loss_of(model, batch, precision)
            (LOSS_SCALE * loss).backward()
        monitors = [stack.monitor for stack in reversible_stacks(model)]
        assert all(monitor.checked_steps == (reversal == "exact") for monitor in monitors)
        return cls(loss.item(), gradients_by_layer(model), sum(monitor.mismatches for monitor in monitors))


def gradients_by_layer(model: nn.Module) -> dict[str, Tensor]:
    """Returns the gradients of each reversible block, and of each other parameter, as one vector."""
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            parts.setdefault(re.sub(r"(blocks\.\d+)\..*", r"\1", name), []).append(parameter.grad.flatten())
    return {layer: torch.cat(found) for layer, found in parts.items()}


def relative_error(found: Tensor, reference: Tensor) -> float:
    """Returns |found - reference| / |reference|."""
    return ((found - reference).norm() / reference.norm()).item()


def exactness_units(plan: Plan) -> Iterator[Unit]:
    """Makes a row for each precision, kernel and kind of batch."""
    for precision, kernel, padded in product(Precision, KERNELS, (False, True)):
        name = f"{precision.name} {kernel}{' padded' if padded else ''}"
        yield name, partial(exactness_rows, plan, precision, kernel, padded)


def exactness_rows(plan: Plan, precision: Precision, kernel: str, padded: bool) -> list[Row]:
    """Compares exact reversal with stored activations; the mismatches decide, the rest describes."""
    row: Row = {"precision": precision.name, "kernel": kernel, "padding": padded}
    equal, errors = [], []
    for method in VARIANTS:
        try:
            stored = Pass.of(plan, method, "stored", precision, kernel, padded)
        except RuntimeError as error:  # with stored activations nothing is reversed: the kernel itself is refused
            return [row | {"not available": first_line(error)}]
        exact = Pass.of(plan, method, "exact", precision, kernel, padded)
        row[f"{method} mismatches"] = exact.mismatches
        equal.append(exact.loss == stored.loss)
        errors += [relative_error(exact.gradients[layer], stored.gradients[layer]) for layer in stored.gradients]
    largest = math.nan if any(map(math.isnan, errors)) else max(errors)
    return [row | {"losses equal": all(equal), "largest gradient error": largest}]


def memory_units(plan: Plan) -> Iterator[Unit]:
    """Makes a row for each shape, precision and method."""
    for (shape, precision), method in product(plan.memory, MEMORY_METHODS):
        name = f"{shape.backbone} {precision.name} {method}"
        yield name, partial(memory_rows, plan, case_of(shape, method, precision), method)


def memory_rows(plan: Plan, case: Case, method: str) -> list[Row]:
    """Predicts a training step's memory and measures it; attention scores are materialised in both."""
    predicted = laboratory.predict(case)
    with plan.device:  # large models take long to initialise elsewhere
        measured = laboratory.measure(case)
    row: Row = {
        "model": case.backbone.name,
        "batch": f"{case.batch_size} x {case.length}",
        "precision": case.precision.name,
        "method": method,
    }
    for figure in ("peak", "activations"):
        expected, found = predicted[f"{figure}_bytes"], measured[f"{figure}_bytes"]
        row[f"{figure} predicted (MiB)"] = round(expected / _MIB, 1)
        row[f"{figure} measured (MiB)"] = round(found / _MIB, 1)
        row[f"{figure} measured / predicted"] = round(found / expected, 4)
    return [row]


def speed_units(plan: Plan) -> Iterator[Unit]:
    """Makes the rows of all methods for each shape."""
    for shape in plan.speed:
        yield shape.backbone, partial(speed_rows, plan, shape)


def speed_rows(plan: Plan, shape: Shape) -> list[Row]:
    """Times every method in turn, round by round; a device that slows down slows all of them."""
    cases = {method: case_of(shape, method, Precision.bf16) for method in ALL_METHODS}
    seconds: dict[str, list[float]] = {method: [] for method in cases}
    for _ in range(plan.rounds):
        for method, case in cases.items():
            seconds[method] += step_seconds(plan, case)
    median = {method: statistics.median(found) if found else math.nan for method, found in seconds.items()}
    return [
        {
            "model": shape.backbone,
            "batch": f"{shape.batch_size} x {shape.length}",
            "method": method,
            "median step (s)": round(median[method], 4),
            "tokens per second": round(shape.batch_size * shape.length / median[method], 1),
            "time / full": round(median[method] / median["full"], 3),
            f"time / {REFERENCE}": round(median[method] / median[REFERENCE], 3),
        }
        for method in cases
    ]


def step_seconds(plan: Plan, case: Case) -> list[float]:
    """Returns the seconds of a few steps of a new model, so that one model at a time needs room; none if it has none."""
    release()
    seconds = []
    try:
        model, batch = build(case, plan.device), batch_of(case, plan.device)
        optimizer = optimizer_of(model)
        for _ in range(WARM_UP_STEPS + plan.steps):
            started = synchronized_time(plan.device)
            train_step(model, optimizer, batch, case.precision)
            seconds.append(synchronized_time(plan.device) - started)
    except torch.OutOfMemoryError:
        return []
    return seconds[WARM_UP_STEPS:]


def synchronized_time(device: torch.device) -> float:
    """Returns the time in seconds when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def capacity_units(plan: Plan) -> Iterator[Unit]:
    """Makes a row for each method."""
    for method in ALL_METHODS:
        yield method, partial(capacity_rows, plan, method)


def capacity_rows(plan: Plan, method: str) -> list[Row]:
    """Finds the largest batch of a method at length 512."""
    case = case_of(replace(plan.speed[0], length=512), method, Precision.bf16)
    with memory_limited(CAPACITY_GIB):
        model = build(case, plan.device)
        optimizer = optimizer_of(model)
        fitted, failed = largest_batch(lambda rows: fits(model, optimizer, replace(case, batch_size=rows), plan.device))
    return [{"method": method, "largest batch": fitted, "smallest that did not fit": failed}]


@contextmanager
def memory_limited(gib: int) -> Iterator[None]:
    """Makes a device behave as if it had this much memory; one that has less stays as it is."""
    total = torch.cuda.get_device_properties().total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, gib * _GIB / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def largest_batch(fits: Callable[[int], bool]) -> tuple[int, int | None]:
    """Returns a batch size that fits and a larger one, by a sixteenth at the most, that does not; None if none was met."""
    fitted, failed = 0, 1
    while fits(failed):
        fitted, failed = failed, 2 * failed
        if failed > LARGEST_BATCH:
            return fitted, None
    while failed - fitted > max(1, fitted // 16):
        middle = (fitted + failed) // 2
        fitted, failed = (middle, failed) if fits(middle) else (fitted, middle)
    return fitted, failed


def fits(model: nn.Module, optimizer: torch.optim.Optimizer, case: Case, device: torch.device) -> bool:
    """Tells whether a device has the memory for a training step."""
    fitted = True
    try:
        train_step(model, optimizer, batch_of(case, device), case.precision)
    except torch.OutOfMemoryError:
        fitted = False
    optimizer.zero_grad(set_to_none=True)
    release()  # not before the handler's end: the error refers to the step's tensors
    return fitted


PARTS: dict[str, tuple[str, Callable[[Plan], Iterator[Unit]]]] = {
    "exactness": ("Exact reversal against stored activations", exactness_units),
    "memory": ("Memory of a training step, attention scores materialised", memory_units),
    "speed": ("Step time, bf16, fused attention", speed_units),
    "capacity": (f"Largest batch at length 512 in {CAPACITY_GIB} GiB (roberta, bf16, fused attention)", capacity_units),
}


@dataclass
class Report:
    """The figures of a device, in a JSON and a Markdown file; parts that are not run again stay in them.

    Attributes:
        device: its name.
        folder: receives the files; None for none.
        parts: for each part what was run, on what, and its rows.
    """

    device: str
    folder: Path | None
    parts: dict[str, dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.parts = json.loads(self._path(".json").read_text())["parts"] if self._exists() else {}

    def run(self, name: str, plan: Plan, command: str, deadline: float) -> None:
        """Runs a part, and prints its table and writes the files as far as it gets until the deadline."""
        title, units = PARTS[name]
        part: dict[str, Any] = {"title": title, "command": command, "started": now()}
        part |= {"environment": environment(self.device), "rows": [], "left out": [], "failed": []}
        self.parts[name] = part
        if name == "capacity" and plan.device.type == "cpu":
            part["left out"].append("everything: it needs a GPU")
            units = lambda plan: iter(())
        for label, make_rows in units(plan):
            if time.monotonic() > deadline:
                part["left out"].append(f"{label}: the time was over")
                continue
            try:
                part["rows"] += map(finite, make_rows())
            except Exception as error:  # one figure that fails must not cost the others
                traceback.print_exc()
                part["failed"].append(f"{label}: {first_line(error)}")
            release()
            self.write()
        self.write()
