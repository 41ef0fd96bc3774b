"""Checks on a CUDA GPU what the tests check on CPU: exactness, memory, speed, and the largest batch.

    python scripts/gpu_check.py                          # every part, about 8 minutes; into results/gpu
    python scripts/gpu_check.py --parts exactness,speed  # the files keep what they have of the other parts
    python scripts/gpu_check.py --cpu                    # small shapes on CPU, printed only

Weights are random: neither exactness nor time nor memory depends on them.
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
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from meft_runner.config import Head, Precision
from meft_runner.errors import in_brief
from meft_runner.files import write_whole
from meft_runner.memory import AUTOCAST, TrainingStep, training_step
from meft_runner.memory_report import prediction
from meft_runner.memory_report.case import Case
from meft_runner.methods.layers import reversible_stacks
from meft_runner.records.environment import environment, now
from meft_runner.run.composing import composed
from meft_runner.run.console import print_table

KERNELS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
}
VARIANTS = ("meft1", "meft2", "meft3")
REFERENCE = "lora + checkpointing"
METHODS = ("full", "full + checkpointing", "lora", REFERENCE, "ia3", "ia3 + checkpointing", *VARIANTS)
LOSS_SCALE = 1024.0  # a power of two: keeps gradients of fp16 above 0 and changes no bit of the others
WARM_UP, ROUNDS, STEPS = 2, 3, 3  # steps before the clock starts, visits to each method, steps a visit
CAPACITY_GIB = 16  # memory for the largest batch: devices compare, and large ones come to an end
LARGEST_BATCH = 1024

Row = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """A model and its batch; `sizes` are overrides of the backbone's own."""

    backbone: str
    batch_size: int
    length: int
    sizes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.backbone} {self.batch_size} x {self.length}"


def units() -> dict[str, list[dict[str, Any]]]:
    """Returns what is run for each part: arguments of its function, which begin the rows of its table."""
    if torch.cuda.is_available():
        roberta, opt = Shape("roberta", 32, 128), Shape("opt", 8, 512)
        slim = replace(roberta, sizes=_sizes(256, 12, intermediate_size=1024))
    else:
        roberta = slim = Shape("roberta", 2, 16, _sizes(64, 2, intermediate_size=128, vocab_size=1000))
        opt = Shape("opt", 2, 32, _sizes(64, 2, ffn_dim=128, word_embed_proj_dim=64, vocab_size=1000))
    methods = ("full", "lora", REFERENCE, "meft1", "meft3")
    return {
        "exactness": _each(shape=[slim], precision=Precision.__members__, kernel=KERNELS, padding=(False, True)),
        "memory": _each(shape=[roberta], precision=("fp32", "bf16"), method=methods)
        + _each(shape=[opt], precision=["bf16"], method=methods),
        "speed": _each(shape=[roberta, opt]),
        "capacity": _each(shape=[replace(roberta, batch_size=1, length=512)], method=METHODS),
    }


def _sizes(hidden: int, layers: int, **others: int) -> tuple[str, ...]:
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 4, **others}
    return tuple(f"++backbone.config.{name}={value}" for name, value in sizes.items())


def _each(**choices: Iterable[Any]) -> list[dict[str, Any]]:
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def device() -> torch.device:
    """Returns the device that is checked."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def case_of(shape: Shape, precision: str, method: str, *overrides: str) -> Case:
    """Returns the case of a method by its name in the tables, such as "lora + checkpointing"."""
    name, _, checkpointing = method.partition(" + ")
    own = ["method.checkpointing=true"] if checkpointing else []
    run = composed([f"backbone={shape.backbone}", f"method={name}", *shape.sizes, *own, *overrides])
    of_all = {"precision": Precision[precision], "head": Head.classification}
    return Case(run.backbone, run.method, shape.batch_size, shape.length, **of_all)


def build(case: Case) -> nn.Module:
    """Returns a model with the attention that training uses, torch's fused kernels."""
    release()
    with device():  # large models take long to initialise elsewhere
        model = prediction.build(case).train()
    model.set_attn_implementation("sdpa")
    return model


def step_of(case: Case, model: nn.Module, padded: bool = False) -> TrainingStep:
    """Returns the Trainer's step on a new batch."""
    return training_step(model, batch_of(case, padded), AUTOCAST[case.precision.name], learning_rate=1e-5)


def batch_of(case: Case, padded: bool = False) -> dict[str, Tensor]:
    """Returns random inputs with labels; with `padded`, half of the first row is padding."""
    ids = torch.randint(5, 1000, (case.batch_size, case.length), device=device())
    batch = {"input_ids": ids, "labels": torch.randint(0, 2, (case.batch_size,), device=device())}
    if padded:
        ids[0, case.length // 2 :] = 1
        batch["attention_mask"] = (ids != 1).long()
    return batch


def run_step(step: TrainingStep) -> None:
    """Runs one step of training."""
    step.forward().backward()
    step.optimizer.step()
    step.optimizer.zero_grad(set_to_none=True)


def release() -> None:
    """Gives back to a GPU what nothing refers to any more."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def exactness(shape: Shape, precision: str, kernel: str, padding: bool) -> list[Row]:
    """Compares exact reversal with stored activations; the mismatches decide, the rest describes."""
    row: Row = {}
    equal, errors = [], []
    for method in VARIANTS:
        run = partial(one_pass, shape, precision, method, KERNELS[kernel], padding)
        try:
            stored_loss, stored, _ = run("stored")
        except RuntimeError as error:  # nothing is reversed here, so it is the kernel that the device refuses
            return [{"note": f"not available, {in_brief(error)}"}]
        loss, gradients, row[f"{method} mismatches"] = run("exact")
        equal.append(loss == stored_loss)
        errors += [(gradients[layer] - stored[layer]).norm() / stored[layer].norm() for layer in stored]
    largest = torch.stack(errors).max().item()
    return [row | {"losses equal": all(equal), "largest gradient error": float(f"{largest:.1e}")}]


def one_pass(
    shape: Shape, precision: str, method: str, kernel: SDPBackend, padded: bool, reversal: str
) -> tuple[float, dict[str, Tensor], int]:
    """Returns loss, gradients by layer and mismatches; weights, inputs and dropout are always the same."""
    case = case_of(shape, precision, method, f"method.reversal={reversal}", "method.strict=false")
    torch.manual_seed(0)
    model = build(case)
    with sdpa_kernel(kernel):  # in backward too, where reversal computes the layers once more
        loss = step_of(case, model, padded).forward()
        (LOSS_SCALE * loss).backward()
    gradients: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            layer = re.sub(r"(blocks\.\d+)\..*", r"\1", name)
            gradients.setdefault(layer, []).append(parameter.grad.flatten())
    monitors = [stack.monitor for stack in reversible_stacks(model)]
    assert all(monitor.checked_steps == (reversal == "exact") for monitor in monitors)  # 0 mismatches were counted
    mismatches = sum(monitor.mismatches for monitor in monitors)
    return loss.item(), {layer: torch.cat(parts) for layer, parts in gradients.items()}, mismatches


def memory(shape: Shape, precision: str, method: str) -> list[Row]:
    """Predicts what a training step needs and measures it."""
    case = case_of(shape, precision, method)
    predicted = prediction.predict(case)
    with device():
        measured = prediction.measure(case)
    row: Row = {}
    for figure in ("peak", "activations"):
        expected, found = predicted[f"{figure}_bytes"], measured[f"{figure}_bytes"]
        row[f"predicted {figure} (MiB)"] = round(expected / 2**20, 1)
        row[f"measured {figure} (MiB)"] = round(found / 2**20, 1)
        row[f"measured / predicted {figure}"] = round(found / expected, 4)
    return [row]


def speed(shape: Shape) -> list[Row]:
    """Times every method in turn, round by round, so that a device that slows down slows all of them."""
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for _, method in product(range(ROUNDS), METHODS):
        seconds[method] += step_seconds(case_of(shape, "bf16", method))
    median = {method: statistics.median(found) if found else math.nan for method, found in seconds.items()}
    return [
        {
            "method": method,
            "median step (s)": round(median[method], 4),
            "tokens per second": round(shape.batch_size * shape.length / median[method], 1),
            "time / full": round(median[method] / median["full"], 3),
            f"time / {REFERENCE}": round(median[method] / median[REFERENCE], 3),
        }
        for method in METHODS
    ]


def step_seconds(case: Case) -> list[float]:
    """Returns the seconds of a few steps of a new model, the only one on the device; none where it does not fit."""
    seconds = []
    try:
        step = step_of(case, build(case))
        for _ in range(WARM_UP + STEPS):
            started = synchronized_time()
            run_step(step)
            seconds.append(synchronized_time() - started)
    except torch.OutOfMemoryError:
        return []
    return seconds[WARM_UP:]


def synchronized_time() -> float:
    """Returns the time in seconds at which the device has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def capacity(shape: Shape, method: str) -> list[Row]:
    """Finds the largest batch of a method on a device that seems to have no more memory than the limit."""
    if not torch.cuda.is_available():
        return [{"note": "left out, needs a GPU"}]
    case = case_of(shape, "bf16", method)
    share = CAPACITY_GIB * 2**30 / torch.cuda.get_device_properties().total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, share))
    try:
        step = step_of(case, build(case))
        fitted, failed = largest_batch(lambda rows: fits(step, replace(case, batch_size=rows)))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return [{"largest batch": fitted, "did not fit": failed}]


def largest_batch(fits: Callable[[int], bool]) -> tuple[int, int | None]:
    """Returns a batch size that fits, and one at most a sixteenth larger that does not; None beyond LARGEST_BATCH."""
    fitted, failed = 0, 1
    while fits(failed):
        fitted, failed = failed, 2 * failed
        if failed > LARGEST_BATCH:
            return fitted, None
    while failed - fitted > max(1, fitted // 16):
        middle = (fitted + failed) // 2
        fitted, failed = (middle, failed) if fits(middle) else (fitted, middle)
    return fitted, failed


def fits(step: TrainingStep, case: Case) -> bool:
    """Tells whether a device has room for a step on a case's batch, with the model and optimizer of `step`."""
    fitted = True
    try:
        run_step(step._replace(forward=step_of(case, step.model).forward))
    except torch.OutOfMemoryError:
        fitted = False
    step.optimizer.zero_grad(set_to_none=True)
    release()  # not in the handler: the error refers to the step's tensors
    return fitted


PARTS: dict[str, tuple[str, Callable[..., list[Row]]]] = {
    "exactness": ("Exact reversal against stored activations", exactness),
    "memory": ("Memory of a training step, attention scores in memory", memory),
    "speed": ("Step time, bf16, fused attention", speed),
    "capacity": (f"Largest batch up to {LARGEST_BATCH} in {CAPACITY_GIB} GiB, bf16, fused attention", capacity),
}


def rows_of(function: Callable[..., list[Row]], unit: dict[str, Any], deadline: float) -> list[Row]:
    """Returns the rows that a part's function makes, or one that says why there are none."""
    try:
        found = function(**unit) if time.monotonic() < deadline else [{"note": "left out for lack of time"}]
    except torch.OutOfMemoryError as error:
        found = [{"note": f"does not fit, {in_brief(error)}"}]
    except Exception as error:  # one that fails must not cost the others
        traceback.print_exc()
        found = [{"note": f"failed, {in_brief(error)}"}]
    name = {key: str(value) for key, value in unit.items()}
    return [{**name, **{key: None if pd.isna(value) else value for key, value in row.items()}} for row in found]


def table_of(part: dict[str, Any]) -> pd.DataFrame:
    """Returns a part's rows; a dash stands for what there is not."""
    table = pd.DataFrame(part["rows"], dtype=object)
    return table.where(table.notna(), "-")


def section(part: dict[str, Any]) -> str:
    """Returns a part in Markdown."""
    environment = part["environment"]
    versions = ", ".join(f"{name} {environment['packages'][name]}" for name in ("torch", "transformers", "peft"))
    heading = f"{environment['device']}; {versions}; `{part['command']}`; {part['started']}"
    return f"## {part['title']}\n\n{heading}\n\n{table_of(part).to_markdown(index=False)}\n"


def write(path: Path, parts: dict[str, dict[str, Any]]) -> None:
    """Writes the parts as JSON and as Markdown."""
    write_whole(path, json.dumps(parts, indent=2) + "\n")
    write_whole(path.with_suffix(".md"), "\n".join(map(section, parts.values())))


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cpu", action="store_true", help="small shapes on CPU")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of %(default)s")
    parser.add_argument("--minutes", type=float, default=8.0, help="nothing is begun after them")
    parser.add_argument("--output", type=Path, help="folder of the files; results/gpu with a GPU, else none")
    asked = parser.parse_args(arguments)
    asked.parts = asked.parts.split(",")
    if not set(asked.parts) <= set(PARTS):
        parser.error(f"argument --parts: expected some of {','.join(PARTS)}")
    return asked


def main(arguments: list[str]) -> int:
    """Runs the parts, prints their tables and writes them; returns 1 where something failed."""
    asked = read_arguments(arguments)
    deadline = time.monotonic() + 60 * asked.minutes
    if asked.cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a measurement takes place on a GPU wherever it sees one
    on_gpu = torch.cuda.is_available()
    folder = asked.output or (Path("results/gpu") if on_gpu else None)
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    path = folder and folder / (re.sub(r"\W+", "-", name.lower()) + ".json")
    parts = json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else {}
    about = {
        "command": shlex.join(["python", "scripts/gpu_check.py", *arguments]),
        "environment": environment(name).plain(),
    }
    for part in asked.parts:
        title, function = PARTS[part]
        parts[part] = {"title": title, "started": now(), **about, "rows": []}
        for unit in units()[part]:
            parts[part]["rows"] += rows_of(function, unit, deadline)
            if path:
                write(path, parts)
        print_table(table_of(parts[part]), title=title)
    return int(any(row.get("note", "").startswith("failed") for part in asked.parts for row in parts[part]["rows"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
