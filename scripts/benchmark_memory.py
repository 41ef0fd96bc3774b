"""Predicted memory of the paper's models with every method, as tables and figures under results/memory/.

    python scripts/benchmark_memory.py                            # all of them, about half an hour on one CPU core
    python scripts/benchmark_memory.py --only roberta-32x128      # one of them
    python scripts/benchmark_memory.py --only llama3_8b           # long rows of Llama-3.1-8B, half an hour

Everything is predicted from shapes alone: fp32 with attention scores in memory and dropout masks as on a CPU, and
autocast to bf16 with attention, dropout and LayerNorm as on a GPU. The same command gives the same figures.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers

from meft_runner.backbones import positions
from meft_runner.config import Head, Kernel, MemorySettings, Precision, Sweep, WeightForm
from meft_runner.config.methods import Checkpointing
from meft_runner.memory.search import largest
from meft_runner.memory_report.case import Case
from meft_runner.memory_report.cases import cases
from meft_runner.memory_report.forms import method_labels, shown
from meft_runner.memory_report.prediction import predict, rows
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
KINDS = list(Checkpointing)
WITH_AND_WITHOUT = [Checkpointing["false"], Checkpointing["true"]]
LONG = [2048, 8192, 32768, 131072]  # tokens, in one row of Llama-3.1-8B
UNIT = 64  # tokens, of which the longest row is a multiple
LONG_COLUMNS = {"peak_bytes": "Peak", "activations_bytes": "Activations", "host_bytes": "Waiting in host memory"}
BUDGETS = {"nf4": [8, 12, 16, 24], "bf16": [16, 24]}  # GiB; 8 billion weights in bf16 alone take 15
RANK = ["method.rank=16", "method.adapter_dim=16"]
REVERSED = {"1/16": "4 bits", "1/256": "8 bits"}  # lambda, and what an element and layer keeps
PUBLISHED_LENGTHS = """
As published by Unsloth (the README of github.com/unslothai/unsloth, "Llama 3.1 (8B) max. context length"): 4-bit LoRA
of rank 32 on all linear layers, one row, cards of so many GB. What stands above is predicted, trains LoRA of rank 16 on
queries and values alone, and leaves nothing for CUDA itself and for what an allocator cannot use.

| | 8 GB | 12 GB | 16 GB | 24 GB |
|:--|--:|--:|--:|--:|
| Unsloth | 2,972 | 21,848 | 40,724 | 78,475 |
| transformers + FlashAttention 2 | none | 932 | 2,551 | 5,789 |
"""
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
        asked = MemorySettings([backbone], checkpointing=WITH_AND_WITHOUT, batch=[batch], length=lengths)
        asked = replace(asked, precision=[precision], attention=[kernel], method=methods or PUBLISHED)
        # A decoder would be a language model else; the others do what they do without being told.
        asked = replace(asked, head=[Head.classification] if backbone.startswith("opt") else None)
        made += predicted(asked)
    return made


def depth_table() -> list[dict[str, Any]]:
    """Returns activations by depth, at BERT-base's width, 32 x 128, fp32."""
    methods = ["full", "lora", "meft1", "meft2", "meft3"]
    asked = MemorySettings(["bert"], methods, WITH_AND_WITHOUT, [32], [128], sweep=Sweep.depth)
    return predicted(asked)


def in_flight_table() -> list[dict[str, Any]]:
    """Returns every method at the same rows in flight: a batch accumulated in parts, and single long rows."""
    long = {"precision": [Precision.bf16], "attention": [Kernel.flash], "head": [Head.classification]}
    asked = [
        MemorySettings(["roberta"], PUBLISHED, WITH_AND_WITHOUT, batch=[8], accumulating=True),
        *(
            MemorySettings([opt], ["lora", "meft1", "meft2", "meft3"], WITH_AND_WITHOUT, [1], [2048], **long)
            for opt in ("opt", "opt_6b7")
        ),
    ]
    return [row for one in asked for row in predicted(one)]


def contenders(weights: str, lengths: list[int]) -> list[tuple[str, Case]]:
    """Returns the methods that are compared at long rows, by what the tables call them; full trains float32 weights."""
    of_all = MemorySettings(["llama3_8b"], batch=[1], length=lengths, precision=[Precision.bf16])
    of_all = replace(of_all, attention=[Kernel.flash], weights=[WeightForm[weights]])
    found = []
    if weights != "nf4":
        full = replace(of_all, method=["full"], checkpointing=WITH_AND_WITHOUT, weights=[WeightForm.fp32])
        found += [(case.method_label, case) for case in cases(full)]
    found += [
        (case.method_label, case) for case in cases(replace(of_all, method=["lora"], checkpointing=KINDS), RANK[:1])
    ]
    for scale, bits in REVERSED.items():
        own = [*RANK[:1], "method.reversal=exact", f"method.scale_1={scale}"]
        found += [(f"lora (reversal=exact, {bits})", case) for case in cases(replace(of_all, method=["lora"]), own)]
    meft = cases(replace(of_all, method=["meft1", "meft3"]), RANK[1:])
    meft += cases(replace(of_all, method=["meft1"]), [*RANK[1:], "method.offload=true"])
    return found + [(case.method_label, case) for case in meft]


def long_rows(weights: str) -> list[dict[str, Any]]:
    """Returns every method at one row of each length, with the seconds that the prediction took."""
    made = []
    for label, case in contenders(weights, LONG):
        started = time.process_time()
        made.append({"label": label, **predict(case)})
        print(label, case.length, f"{time.process_time() - started:.1f} s", flush=True)
    return made


def longest_rows() -> list[dict[str, Any]]:
    """Returns the longest row of each method that fits into each budget."""
    made = []
    for weights, budgets in BUDGETS.items():
        for label, case in contenders(weights, [2048]):
            if label.startswith("full"):
                continue

            @cache
            def peak(units: int, case: Case = case) -> int:
                return predict(replace(case, length=units * UNIT))["peak_bytes"]

            limit = positions(case.config()) // UNIT
            fits = {f"{each} GiB": UNIT * largest(peak, each * 2**30, limit=limit).number for each in budgets}
            made.append({"weights": weights, "label": label, **fits})
            print(made[-1], flush=True)
    return made


def write_long(name: str, made: list[dict[str, Any]]) -> None:
    """Writes what is known of long rows, a line a method."""
    table = pd.DataFrame(made)
    table.to_csv(FOLDER / f"{name}.csv", index=False)
    if name.endswith("-fit"):
        counts = table.set_index(["weights", "label"]).map(lambda count: "" if pd.isna(count) else f"{int(count):,}")
        text = "Longest row (tokens) that fits, of 131,072 at the most:\n\n"
        text += (
            counts.reset_index().rename(columns={"label": "method"}).to_markdown(index=False) + "\n" + PUBLISHED_LENGTHS
        )
    else:
        text = ""
        for column, title in LONG_COLUMNS.items():
            wide = (table.pivot(index="label", columns="length", values=column) / 2**30).round(2)
            wide = wide.loc[table["label"].unique()].rename_axis(index="method", columns=None)
            wide.columns = [f"{length:,} tokens" for length in wide]
            text += f"{title} (GiB):\n\n{wide.to_markdown()}\n\n"
    (FOLDER / f"{name}.md").write_text(heading(name) + text.rstrip() + "\n", encoding="utf-8")


def heading(name: str) -> str:
    """Returns what a table is, and the command that makes it."""
    versions = f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}"
    return f"Predicted from shapes alone, {versions}: `python scripts/benchmark_memory.py --only {name}`\n\n"


def write(name: str, made: list[dict[str, Any]]) -> None:
    """Writes rows as CSV in bytes and as Markdown in GiB, headed by what they are and how they were made."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(made).to_csv(FOLDER / f"{name}.csv", index=False)
    text = shown(made).drop(columns=["dominant", "source"]).to_markdown(index=False)
    more = slopes(made) if name == "depth" else ""
    (FOLDER / f"{name}.md").write_text(f"{heading(name)}{text}\n{more}", encoding="utf-8")


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
        **{f"llama3_8b-{weights}": lambda weights=weights: long_rows(weights) for weights in BUDGETS},
        "llama3_8b-fit": longest_rows,
    }
    families = {
        name.partition("-")[0]: [job for job in jobs if job.startswith(name.partition("-")[0])] for name in jobs
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices={**jobs, **families}, nargs="+", default=list(jobs))
    for name in [name for one in parser.parse_args().only for name in ([one] if one in jobs else families[one])]:
        print(f"{name}:", flush=True)
        made = jobs[name]()
        (write_long if name.startswith("llama3_8b") else write)(name, made)
        if name == "depth":
            table = pd.DataFrame(made)
            table["label"] = method_labels(table)
            save_figure(memory_curve(table, "depth", "BERT-base's layers, 32 x 128, fp32, predicted"), FOLDER, name)


if __name__ == "__main__":
    main()
