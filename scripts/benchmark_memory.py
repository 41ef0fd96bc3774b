"""Predicted memory of the paper's models with every method, as tables and figures under results/memory/.

    python scripts/benchmark_memory.py                            # all of them, about half an hour on one CPU core
    python scripts/benchmark_memory.py --only roberta-32x128      # one of them

Everything is predicted from shapes alone: fp32 with attention scores in memory and dropout masks as on a CPU, and
autocast to bf16 with attention, dropout and LayerNorm as on a GPU. The same command gives the same figures.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers

from meft_runner.config import Kernel, MemorySettings, Precision, Sweep
from meft_runner.memory_report.cases import cases
from meft_runner.memory_report.forms import method_labels, shown
from meft_runner.memory_report.prediction import rows
from meft_runner.reports.figures import memory_curve, save_figure

FOLDER = Path("results/memory")
SHAPES = {
    "roberta-32x128": ("roberta", 32, 128),
    "roberta-32x512": ("roberta", 32, 512),
    "bert-32x128": ("bert", 32, 128),
    "bart-32x128": ("bart", 32, 128),
    "opt-8x512": ("opt", 8, 512),
    "opt-32x128": ("opt", 32, 128),
    "opt_6b7-8x512": ("opt_6b7", 8, 512),
    "opt_6b7-32x128": ("opt_6b7", 32, 128),
    "vit-64": ("vit", 64, None),  # images have a length of their own
}
PUBLISHED = ["full", "lora", "ia3", "meft1", "meft2", "meft3"]
MACHINES = ((Precision.fp32, Kernel.materialised), (Precision.bf16, Kernel.flash))


def predicted(asked: MemorySettings) -> list[dict[str, Any]]:
    """Returns the rows of a table, each printed when it is there."""
    made = []
    for case in cases(asked):
        made += rows([case], measured=False)
        print(made[-1]["method"], made[-1]["checkpointing"], made[-1]["activations_bytes"], flush=True)
    return made


def shape_table(name: str, methods: list[str] | None = None) -> list[dict[str, Any]]:
    """Returns every method at one shape, with and without checkpointing, in both precisions."""
    backbone, batch, length = SHAPES[name]
    made = []
    for precision, kernel in MACHINES:
        lengths = None if length is None else [length]
        asked = MemorySettings([backbone], checkpointing=[False, True], batch=[batch], length=lengths)
        asked = replace(asked, precision=[precision], attention=[kernel], method=methods or PUBLISHED)
        made += predicted(asked)
    return made


def depth_table() -> list[dict[str, Any]]:
    """Returns activations by depth, at BERT-base's width, 32 x 128, fp32."""
    methods = ["full", "lora", "meft1", "meft2", "meft3"]
    asked = MemorySettings(["bert"], methods, [False, True], [32], [128], sweep=Sweep.depth)
    return predicted(asked)


def in_flight_table() -> list[dict[str, Any]]:
    """Returns every method at the same rows in flight: a batch accumulated in parts, and single long rows."""
    long = {"precision": [Precision.bf16], "attention": [Kernel.flash]}
    asked = [
        MemorySettings(["roberta"], PUBLISHED, [False, True], batch=[8], accumulating=True),
        *(
            MemorySettings([opt], ["lora", "meft1", "meft2", "meft3"], [False, True], [1], [2048], **long)
            for opt in ("opt", "opt_6b7")
        ),
    ]
    return [row for one in asked for row in predicted(one)]


def write(name: str, made: list[dict[str, Any]]) -> None:
    """Writes rows as CSV in bytes and as Markdown in GiB, headed by what they are and how they were made."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(made).to_csv(FOLDER / f"{name}.csv", index=False)
    versions = f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}"
    head = f"Predicted from shapes alone, {versions}: `python scripts/benchmark_memory.py --only {name}`\n\n"
    text = shown(made).drop(columns=["dominant", "source"]).to_markdown(index=False)
    more = slopes(made) if name == "depth" else ""
    (FOLDER / f"{name}.md").write_text(f"{head}{text}\n{more}", encoding="utf-8")


def slopes(made: list[dict[str, Any]]) -> str:
    """Returns bytes a layer of each method, between the two largest depths, as a second table."""
    table = pd.DataFrame(made)
    ends = table[table["depth"].isin([table["depth"].max(), table["depth"].max() // 2])].sort_values("depth")
    parts = ends.groupby(["method", "checkpointing"], sort=False)
    slope = parts["activations_bytes"].diff().dropna() / parts["depth"].diff().dropna()
    found = ends.loc[slope.index, ["method", "checkpointing"]].assign(**{"bytes a layer": slope.round().astype(int)})
    return f"\n{found.to_markdown(index=False)}\n"


def main() -> None:
    """Makes the tables that were asked for."""
    jobs: dict[str, Callable[[], list[dict[str, Any]]]] = {
        **{name: lambda name=name: shape_table(name) for name in SHAPES},
        "depth": depth_table,
        "in_flight": in_flight_table,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=jobs, nargs="+", default=list(jobs))
    for name in parser.parse_args().only:
        print(f"{name}:", flush=True)
        made = jobs[name]()
        write(name, made)
        if name == "depth":
            table = pd.DataFrame(made)
            table["label"] = method_labels(table)
            save_figure(memory_curve(table, "depth", "BERT-base's layers, 32 x 128, fp32, predicted"), FOLDER, name)


if __name__ == "__main__":
    main()
