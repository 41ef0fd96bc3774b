"""Step time and activation memory of every method, interleaved in one process and printed as ratios.

    python scripts/benchmark_step.py                    # a BERT of 12 layers, hidden 512, batch 8, length 128
    python scripts/benchmark_step.py --hidden 768       # the shape of BERT-base

Weights are random: neither time nor memory depends on them. Every round runs one step of each method in turn,
so a machine that slows down slows all of them; the median over the rounds is taken, and ratios are what counts.
Memory is tracked on two steps of each method before the clock starts.
"""

import argparse
import platform
import statistics
import time
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from meft_runner.backbones import FAMILIES
from meft_runner.config import (
    BackboneSettings,
    FullSettings,
    LoraSettings,
    MeftSettings,
    MethodSettings,
    Norm,
    PeftReversal,
    Reversal,
)
from meft_runner.memory import TrainingStep, measure_step, meter_for, training_step
from meft_runner.methods.prepare import prepare
from meft_runner.methods.variants import VARIANTS
from meft_runner.reports.tables import write_tables
from meft_runner.run.console import print_table

REFERENCE = "lora + checkpointing"


def method_settings() -> dict[str, MethodSettings]:
    """Returns the methods that are compared, by the name they get in the table; `exact` also in chunks."""
    found: dict[str, MethodSettings] = {}
    for checkpointing in (False, True):
        suffix = " + checkpointing" if checkpointing else ""
        found["full" + suffix] = FullSettings("full", 1e-4, checkpointing=checkpointing)
        found["lora" + suffix] = LoraSettings("lora", 1e-4, checkpointing=checkpointing)
    for scale in ("1/256", "1/16"):
        found[f"lora exact, {scale}"] = LoraSettings("lora", 1e-4, reversal=PeftReversal.exact, scale_1=scale, chunks=1)
    for reversal, chunks in [(Reversal.exact, 1), (Reversal.exact, 2), (Reversal.exact, 4), (Reversal.float, 1)]:
        for name, variant in VARIANTS.items():
            suffix = "" if chunks == 1 else f", {chunks} chunks"
            found[f"{name} {reversal.name}{suffix}"] = MeftSettings(
                name,
                1e-4,
                reversal=reversal,
                scale_1=variant.scale_1,
                scale_2=variant.scale_2,
                merge=list(variant.merge[Norm.post]),
                chunks=chunks,
            )
    return found


def build(config: BertConfig, method: MethodSettings, batch: dict[str, Tensor]) -> TrainingStep:
    """Returns a step of a prepared model with random weights."""
    torch.manual_seed(0)
    backbone = BackboneSettings(name="random", model_types=["bert"], hub="-")
    model = prepare(BertForSequenceClassification(config), FAMILIES["bert"], backbone, method).train()
    return training_step(model, batch, None, learning_rate=1e-5)


def run_step(step: TrainingStep) -> float:
    """Runs a step and returns its seconds."""
    started = time.perf_counter()
    step.forward().backward()
    step.optimizer.step()
    step.optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - started


def benchmark(arguments: argparse.Namespace) -> pd.DataFrame:
    """Returns the table: a row a method."""
    config = BertConfig(
        hidden_size=arguments.hidden,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.hidden // 64,
        intermediate_size=4 * arguments.hidden,
    )
    rows, length = arguments.batch, arguments.length
    batch = {
        "input_ids": torch.randint(1000, 30000, (rows, length)),
        "attention_mask": torch.ones(rows, length, dtype=torch.long),
        "labels": torch.randint(0, 2, (rows,)),
    }
    runs = {name: build(config, method, batch) for name, method in method_settings().items()}
    memory = {name: measure_step(*step, meter_for(torch.device("cpu"))) for name, step in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, step in runs.items():
            seconds[name].append(run_step(step))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return pd.DataFrame(
        {
            "method": name,
            "median step (s)": round(median[name], 3),
            "time / full": round(median[name] / median["full"], 3),
            f"time / {REFERENCE}": round(median[name] / median[REFERENCE], 3),
            "activations (MiB)": round(memory[name].activations_bytes / 2**20, 1),
            "activations / full": round(memory[name].activations_bytes / memory["full"].activations_bytes, 3),
            "retained after forward (MiB)": round(memory[name].retained_after_forward_bytes / 2**20, 1),
        }
        for name in runs
    )


def main() -> None:
    """Runs the benchmark, prints its table and writes it beside the other results."""
    parser = argparse.ArgumentParser(description="Step time and activation memory of every method, as ratios.")
    for name, default in (("hidden", 512), ("layers", 12), ("batch", 8), ("length", 128), ("rounds", 9)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--output", type=Path, default=Path("results/step"), help="folder of the table's files")
    arguments = parser.parse_args()
    table = benchmark(arguments)
    name = f"hidden{arguments.hidden}-batch{arguments.batch}x{arguments.length}"
    print_table(table, title=f"{name}, {arguments.layers} layers, torch {torch.__version__}, {platform.machine()}")
    write_tables({name: table}, arguments.output)


if __name__ == "__main__":
    main()
