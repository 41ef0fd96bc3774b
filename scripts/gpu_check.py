"""Checks on a CUDA GPU what the tests check on CPU: exactness, memory, speed, the largest batch and the longest row.

    python scripts/gpu_check.py                             # as many parts as 9 minutes hold; into results/gpu
    python scripts/gpu_check.py --parts longest,capacity    # the last ones; the files keep what they have of the others
    python scripts/gpu_check.py --cpu                       # small shapes on CPU, printed only

Weights are random: neither exactness nor time nor memory depends on them. Checks do not depend on each other: one that
fails, or takes longer than it may, leaves a note, and what is written stays.
"""

import argparse
import faulthandler
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from gpu import exact, needs, shapes, speed
from gpu.report import is_lost, rows_of, table_of, write
from gpu.shapes import Row, each, on_gpu

from meft_runner.config import Precision
from meft_runner.records.environment import environment, now
from meft_runner.run.console import print_table

GRACE = 60  # seconds after which a process that does not end by itself is ended
LONG_METHODS = {
    "lora + checkpointing": ("method=lora", "method.checkpointing=true"),
    "lora + checkpointing (offload)": ("method=lora", "method.checkpointing=offload"),
    "meft1": ("method=meft1",),
    "meft1, remainders on the host": ("method=meft1", "method.offload=true"),
    "lora reversed": exact.METHODS["lora reversed"],
}


@dataclass(frozen=True)
class Part:
    """Checks of one kind, which make one table.

    Attributes:
        title: of the table.
        check: makes rows of a table.
        units: the arguments of each check.
        seconds: that one may take.
    """

    title: str
    check: Callable[..., Iterable[Row]]
    units: Callable[[], list[dict[str, Any]]]
    seconds: float = 60


def exactness() -> list[dict[str, Any]]:
    """Returns what is run for exactness: every precision and attention kernel."""
    small = [shapes.encoder(), shapes.decoder()]
    kernels = each(shape=small, precision=Precision.__members__, kernel=exact.KERNELS, padding=[False])
    return kernels + each(shape=small[:1], precision=Precision.__members__, kernel=["default"], padding=[True])


def families() -> list[dict[str, Any]]:
    """Returns what is run for families: each one's own layers, with padding."""
    return each(shape=shapes.families(), precision=("fp32", "bf16"), kernel=["default"], padding=[True])


def weights() -> list[dict[str, Any]]:
    """Returns what is run for forms of weights: an encoder and a decoder in each."""
    quantised = [
        replace(shape, weights=form) for form in ("nf4", "int8") for shape in (shapes.encoder(), shapes.decoder())
    ]
    half = [replace(shapes.decoder(), weights="bf16")]
    known = {"kernel": ["default"], "padding": [False]}
    return each(shape=quantised, precision=("fp32", "bf16"), **known) + each(shape=half, precision=["bf16"], **known)


def settings() -> list[dict[str, Any]]:
    """Returns what is run for settings that change memory and time alone."""
    half = shapes.layers() // 2
    changes = [
        f"method.stored_layers={half}", f"method.stored_layers={2 * half}", "method.offload=true",
        f"method.offload=true method.stored_layers={half}",
    ]  # fmt: skip
    small = {"shape": [shapes.encoder(), shapes.decoder()]}
    return each(**small, precision=["bf16"], method=exact.REVERSED, change=changes) + each(
        **small, precision=["bf16"], method=["lora + checkpointing"], change=["method.checkpointing=offload"]
    )


def memory() -> list[dict[str, Any]]:
    """Returns what is run for memory: both kernels of attention, every method of interest."""
    methods = {name: {"method": name, "overrides": typed} for name, typed in exact.METHODS.items() if name != "meft2"}
    methods |= {name: {"method": name, "overrides": (f"method={name}",)} for name in ("full", "lora")}
    half = f"method.stored_layers={shapes.layers() // 4}"
    methods["meft1, half of the layers kept"] = {"method": "meft1, half kept", "overrides": ("method=meft1", half)}
    methods["meft1, offloaded"] = {"method": "meft1, offload", "overrides": ("method=meft1", "method.offload=true")}
    few = [shape.of_layers(shapes.layers() // 2) for shape in shapes.usual()]  # a prediction takes as long as they do
    found = each(shape=few[:1], precision=["bf16"], attention=["materialised"])
    found += each(shape=few[1:], precision=["bf16"], attention=["flash"])
    found += each(shape=[shapes.decoder("nf4")], precision=["bf16"], attention=["flash"])
    return [
        unit | own
        for unit in found
        for name, own in methods.items()
        if unit["shape"].weights == "fp32" or name != "full"
    ]


def capacity() -> list[dict[str, Any]]:
    """Returns what is run for the largest batch: rows of 512 tokens."""
    shape = replace(shapes.usual()[0], batch_size=1, length=512)
    methods = {"full": ("method=full",), "lora": ("method=lora",), **LONG_METHODS}
    return [{"shape": shape, "method": name, "overrides": typed} for name, typed in methods.items()]


def longest() -> list[dict[str, Any]]:
    """Returns what is run for the longest row: methods that go a long way with little memory."""
    cards = (8, 12, 16) if on_gpu() else (0.004, 0.008)
    methods = {name: typed for name, typed in LONG_METHODS.items() if on_gpu() or "offload" not in name}
    return [
        {"shape": shapes.long_rows(), "method": name, "overrides": typed, "cards": cards}
        for name, typed in methods.items()
    ]


PARTS = {
    "exactness": Part("Exact reversal against stored activations", exact.exactness, exactness),
    "families": Part("The same, of every family's layers", exact.exactness, families),
    "weights": Part("The same, beside frozen weights in other forms", exact.exactness, weights),
    "settings": Part("Settings that change memory and time alone", exact.changed, settings),
    "kernels": Part("Fused arithmetic of the streams against the plain one", speed.kernels,
                    lambda: each(shape=[shapes.encoder()], precision=["bf16"], method=exact.REVERSED)),
    "memory": Part("Memory of a training step", needs.memory, memory),
    "speed": Part("Step time, bf16, fused attention", speed.speed, lambda: each(shape=shapes.usual()), 120),
    "longest": Part("Longest row of Llama-3.1-8B's shape on NF4 weights, bf16, fused attention", needs.longest,
                    longest, 150),
    "capacity": Part(f"Largest batch up to {needs.LARGEST_BATCH} in {needs.CAPACITY_GIB} GiB, bf16, fused attention",
                     needs.capacity, capacity),
}  # fmt: skip


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cpu", action="store_true", help="small shapes on CPU")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of %(default)s")
    parser.add_argument("--minutes", type=float, default=9.0, help="nothing is begun after them")
    parser.add_argument("--output", type=Path, help="folder of the files; results/gpu with a GPU, else none")
    asked = parser.parse_args(arguments)
    asked.parts = asked.parts.split(",")
    if not set(asked.parts) <= set(PARTS):
        parser.error(f"argument --parts: expected some of {','.join(PARTS)}")
    return asked


def run_parts(
    asked: argparse.Namespace, arguments: list[str], path: Path | None, name: str
) -> dict[str, dict[str, Any]]:
    """Runs the parts that are asked for, prints their tables and writes each row as soon as it is known.

    Returns:
        Every part of the file, of this call and of earlier ones.
    """
    deadline = time.monotonic() + 60 * asked.minutes
    parts = json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else {}
    command = shlex.join(["python", "scripts/gpu_check.py", *arguments])
    about = {"command": command, "environment": environment(name).plain()}
    for place, part in enumerate(asked.parts):
        kind = PARTS[part]
        parts[part] = {"title": kind.title, "started": now(), **about, "rows": []}
        for unit in kind.units():
            parts[part]["rows"] += rows_of(kind.check, unit, kind.seconds, deadline)
            if path:
                write(path, parts)
            if is_lost():
                go_on(asked.parts[place + 1 :], deadline, path)
                break
        print_table(table_of(parts[part]), title=kind.title)
    return parts


def go_on(parts: list[str], deadline: float, path: Path | None) -> None:
    """Runs the other parts in a new process in this one's place, which has lost the device."""
    if parts:
        left = ["--parts", ",".join(parts), "--minutes", f"{(deadline - time.monotonic()) / 60:.1f}"]
        folder = ["--output", str(path.parent)] if path else []
        os.execv(sys.executable, [sys.executable, __file__, *left, *folder])  # noqa: S606  it is this script


def main(arguments: list[str]) -> int:
    """Runs the parts; returns 1 where something failed."""
    asked = read_arguments(arguments)
    if asked.cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a measurement takes place on a GPU wherever it sees one
    folder = asked.output or (Path("results/gpu") if on_gpu() else None)
    name = torch.cuda.get_device_name() if on_gpu() else "CPU"
    path = folder and folder / (re.sub(r"\W+", "-", name.lower()) + ".json")
    faulthandler.dump_traceback_later(60 * asked.minutes + GRACE, exit=True, file=sys.__stderr__)
    try:
        parts = run_parts(asked, arguments, path, name)
    finally:
        faulthandler.cancel_dump_traceback_later()
    notes = [row.get("note") or "" for part in asked.parts for row in parts[part]["rows"]]
    return int(any(note.startswith("failed") for note in notes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
