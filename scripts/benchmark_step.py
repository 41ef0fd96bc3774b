"""Step time and activation memory of every method, interleaved in one process and printed as ratios.

    python scripts/benchmark_step.py                      # BERT's layers, 12 of hidden 512, 8 rows of 128 tokens
    python scripts/benchmark_step.py --model llama        # a decoder of Llama's shape
    python scripts/benchmark_step.py --length 2048        # one row; --tokens is what a step has of them
    python scripts/benchmark_step.py --only 'meft1*' lora 'lora + checkpointing*' --minutes 10

Weights are random: neither time nor memory depends on them. Every round runs one step of each method in turn,
so a machine that slows down slows all of them; the median over the rounds is taken, and ratios are what counts.
Memory is measured on two steps of each method before the clock starts.
"""

import argparse
import platform
import time
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from steps.clock import median_seconds
from steps.contenders import CURVES, REFERENCES, Contender, chosen, contenders
from steps.models import Shape, build, case_of, device, sizes, step_of

from meft_runner.config import Head
from meft_runner.memory import AUTOCAST, StepMemory, measure_step, meter_for
from meft_runner.reports.figures import legend_below, method_styles, panel_grid, save_figure
from meft_runner.reports.tables import write_tables
from meft_runner.run.console import print_table

CHECKPOINTED = "lora + checkpointing"
TIME, MEMORY, WAITING = f"time / {CHECKPOINTED}", "activations (MiB)", "waiting on the host (MiB)"
VOCABULARY = 30522  # BERT's, for both models: rows of embeddings take time under full fine-tuning alone


def shape_of(asked: argparse.Namespace) -> Shape:
    """Returns the model and the batch that are asked for."""
    hidden, heads = asked.hidden, asked.hidden // 64
    own = {"hidden_size": hidden, "num_hidden_layers": asked.layers, "num_attention_heads": heads}
    own |= {"vocab_size": VOCABULARY, "max_position_embeddings": max(512, asked.length)}
    if asked.model == "bert":
        backbone, own = "bert", own | {"intermediate_size": 4 * hidden}
    else:  # as in Llama-3.1-8B, four queries share keys and values, and the MLP is 3.5 times as wide
        shared = {"num_key_value_heads": max(1, heads // 4), "head_dim": 64, "intermediate_size": 7 * hidden // 2}
        backbone, own = "llama3_1b", own | shared
    rows = max(1, asked.tokens // asked.length)
    return Shape(backbone, rows, asked.length, sizes(**own), head=Head.classification, name=asked.model)


def benchmark(asked: argparse.Namespace, shape: Shape) -> tuple[pd.DataFrame, int]:
    """Returns the table, a row a method, and over how many rounds its medians are."""
    deadline = time.monotonic() + 60 * asked.minutes
    found = chosen(contenders(asked.layers, device().type == "cuda"), asked.only)
    steps, memory = {}, {}
    for contender in found:
        case = case_of(shape, asked.precision, *contender.overrides)
        steps[contender.name] = step_of(case, build(case))
        memory[contender.name] = measure_step(*steps[contender.name], meter_for(device()))
    seconds, rounds = median_seconds(steps, asked.rounds, deadline)
    table = pd.DataFrame([row_of(contender, seconds, memory) for contender in found])
    return table.astype({"layers kept": "Int64"}), rounds


def row_of(contender: Contender, seconds: dict[str, float], memory: dict[str, StepMemory]) -> dict[str, object]:
    """Returns a method's row of the table; ratios are to those methods that ran with it."""
    own, needed = seconds[contender.name], memory[contender.name]
    bases = [name for name in REFERENCES if name in seconds]
    full = memory.get("full")
    return {
        "method": contender.method,
        "layers kept": contender.kept,
        "median step (s)": round(own, 4),
        **{f"time / {name}": round(own / seconds[name], 3) for name in bases},
        MEMORY: round(needed.activations_bytes / 2**20, 2),
        **({"activations / full": round(needed.activations_bytes / full.activations_bytes, 3)} if full else {}),
        "retained after forward (MiB)": round(needed.retained_after_forward_bytes / 2**20, 2),
        **({WAITING: round(needed.host_bytes / 2**20, 1)} if device().type == "cuda" else {}),
    }


def summary(table: pd.DataFrame, layers: int) -> list[str]:
    """Returns how reversible methods stand to what they are to be as fast as, a line each."""
    goals = {layers // 2: (CHECKPOINTED, 0.87), 0: (CHECKPOINTED, 1.0), layers: ("lora", 1.1)}  # by layers kept
    lines = []
    for method, (kept, (rival, limit)) in product(CURVES, sorted(goals.items())):
        own = table[(table["method"] == method) & (table["layers kept"] == kept)]
        if own.empty or f"time / {rival}" not in table:
            continue
        ratio = own[f"time / {rival}"].item()
        word = "within" if ratio <= limit else "ABOVE"
        lines.append(
            f"{method}, {kept} of {layers} layers kept: {ratio:.3f} x {rival}, {word} the limit of {limit:.2f}"
        )
    return lines


def curve(table: pd.DataFrame, title: str) -> Figure:
    """Draws time over activations: a line over kept layers for each reversible method, a point for each other one."""
    figure, (axes,) = panel_grid([title])
    figure.set_size_inches(8, 6)
    styles = method_styles(table["method"])
    for method, part in table.groupby("method", sort=False):
        style = styles[str(method)] | ({} if len(part) > 1 else {"linestyle": "none"})
        axes.plot(part[MEMORY], part[TIME], label=str(method), **style)
    axes.set(xlabel=MEMORY, ylabel=TIME)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    legend_below(figure)
    return figure


def read_arguments() -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = argparse.ArgumentParser(description="Step time and activation memory of every method, as ratios.")
    parser.add_argument("--model", choices=("bert", "llama"), default="bert", help="whose layers")
    for name, default in (("hidden", 512), ("layers", 12), ("length", 128), ("tokens", 1024), ("rounds", 9)):
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument("--precision", choices=tuple(AUTOCAST), default="fp32")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="of the methods to compare")
    parser.add_argument("--minutes", type=float, default=60, help="no round but the first is begun after them")
    parser.add_argument("--output", type=Path, default=Path("results/step"), help="folder of the files")
    return parser.parse_args()


def main() -> None:
    """Runs the benchmark, prints its table and writes it with its figure beside the other results."""
    asked = read_arguments()
    shape = shape_of(asked)
    table, rounds = benchmark(asked, shape)
    name = f"{asked.model}-hidden{asked.hidden}-{shape.batch_size}x{shape.length}"
    machine = torch.cuda.get_device_name() if device().type == "cuda" else platform.machine()
    about = f"{asked.layers} layers, {asked.precision}, {rounds} rounds, torch {torch.__version__}, {machine}"
    print_table(table, title=f"{name}, {about}")
    print(*summary(table, asked.layers), sep="\n")
    write_tables({name: table}, asked.output)
    if TIME in table:
        save_figure(curve(table, name), asked.output, name)


if __name__ == "__main__":
    main()
