"""Which method fits which card: predicted peaks of models of several sizes, and the tables of docs/choosing.md.

    python scripts/cards.py             # predicts, about ten minutes on one CPU core, and writes the tables
    python scripts/cards.py --tables    # the tables alone, from results/cards/peaks.csv

Peaks are those of `meft-memory`, from shapes alone: autocast to bf16, attention, dropout and LayerNorm as on a GPU,
loss and optimizer included.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from meft_runner.config import Kernel, MemorySettings, Precision, WeightForm
from meft_runner.config.methods import Checkpointing
from meft_runner.memory_report.cases import cases
from meft_runner.memory_report.prediction import predict

PEAKS = Path("results/cards/peaks.csv")
PAGE = Path("docs/choosing.md")
CARDS = [8, 12, 16, 24, 48, 80]  # GiB
USABLE = 0.9  # of a card: the rest is for CUDA itself and for what an allocator cannot use
SIZE = "backbone.config."
THREE_BILLION = {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24, "head_dim": 128}
SEVENTY_BILLION = {
    "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "intermediate_size": 28672,
}  # fmt: skip
ENCODER_SHAPES, DECODER_SHAPES = [(32, 128), (32, 512)], [(1, 2048), (1, 8192), (1, 32768)]
# What a table calls a model: its backbone, sizes that differ from that, rows x tokens, forms of frozen weights.
MODELS: dict[str, tuple[str, dict[str, int], list[tuple[int, int]], list[str]]] = {
    "BERT-base, 0.11 billion": ("bert", {}, ENCODER_SHAPES, ["fp32"]),
    "RoBERTa-large, 0.36 billion": ("roberta", {}, ENCODER_SHAPES, ["fp32"]),
    "Llama-3.2-1B": ("llama3_1b", {}, DECODER_SHAPES, ["bf16", "nf4"]),
    "Llama-3.2-3B": ("llama3_1b", THREE_BILLION, DECODER_SHAPES, ["bf16", "nf4"]),
    "Llama-3.1-8B": ("llama3_8b", {}, DECODER_SHAPES, ["bf16", "nf4"]),
    "Llama-3.1-70B": ("llama3_8b", SEVENTY_BILLION, DECODER_SHAPES, ["bf16", "nf4"]),
}
REVERSED = ["method.reversal=exact", "method.scale_1=1/16"]  # half a byte an element and layer
# What is tried on a card, the first that fits first: its method, kind of checkpointing and further settings.
LADDER: dict[str, tuple[str, Checkpointing | None, list[str]]] = {
    "full": ("full", Checkpointing["false"], []),
    "LoRA": ("lora", Checkpointing["false"], []),
    "LoRA + checkpointing": ("lora", Checkpointing["true"], []),
    "LoRA reversed": ("lora", None, REVERSED),
    "MEFT1": ("meft1", None, []),
    "MEFT1 + offload": ("meft1", None, ["method.offload=true"]),
}
WIDTHS = {"lora": ["method.rank=16"], "meft1": ["method.adapter_dim=16"]}  # of decoders; others have the defaults


def peak(model: str, shape: tuple[int, int], weights: str, label: str) -> dict[str, Any]:
    """Returns the predicted peak of one step in bytes, with what it is of."""
    backbone, sizes, _, _ = MODELS[model]
    method, checkpointing, own = LADDER[label]
    batch, length = shape
    asked = MemorySettings([backbone], [method], None if checkpointing is None else [checkpointing], [batch], [length])
    asked = replace(asked, precision=[Precision.bf16], attention=[Kernel.flash], weights=[WeightForm[weights]])
    widths = WIDTHS.get(method, []) if shape in DECODER_SHAPES else []
    (case,) = cases(asked, [*(f"{SIZE}{name}={size}" for name, size in sizes.items()), *own, *widths])
    row = predict(case)
    named = {"model": model, "weights": weights, "rows": batch, "tokens": length, "method": label}
    return named | {name: row[name] for name in ("peak_bytes", "activations_bytes", "host_bytes")}


def asked_of(model: str) -> list[tuple[tuple[int, int], str, str]]:
    """Returns shapes, weights and methods of a model; full fine-tuning trains float32 weights."""
    _, _, shapes, forms = MODELS[model]
    full = [(shape, "fp32", "full") for shape in shapes]
    return full + [(shape, form, label) for shape in shapes for form in forms for label in LADDER if label != "full"]


def choice(peaks: pd.DataFrame, card: float) -> str:
    """Returns the first method that fits a card, of the peaks of one model at one shape, or an empty text."""
    order = [*peaks["weights"].unique()]
    places = {name: place for place, name in enumerate(LADDER)}
    fitting = peaks[peaks["peak_bytes"] <= USABLE * card * 2**30]
    if fitting.empty:
        return ""
    ranked = sorted(fitting.itertuples(), key=lambda row: (order.index(row.weights), places[row.method]))
    first = ranked[0]
    return f"{first.method} ({first.peak_bytes / 2**30:.1f})" + (", NF4" if first.weights == "nf4" else "")


def tables(peaks: pd.DataFrame) -> str:
    """Returns the tables of the page: what to take on each card, and the peaks that this rests on."""
    shapes = peaks.groupby(["model", "rows", "tokens"], sort=False)
    chosen = [
        {"model": model, "rows x tokens": _shape(rows, tokens), **{f"{card} GiB": choice(part, card) for card in CARDS}}
        for (model, rows, tokens), part in shapes
    ]
    lines = peaks.assign(
        shape=[_shape(*each) for each in zip(peaks["rows"], peaks["tokens"], strict=True)],
        peak=peaks["peak_bytes"] / 2**30,
    )
    wide = lines.pivot_table(index=["model", "shape", "weights"], columns="method", values="peak", sort=False)
    figures = wide[list(LADDER)].map(lambda gib: "" if pd.isna(gib) else f"{gib:.1f}").reset_index()
    figures = figures.rename(columns={"shape": "rows x tokens"})
    head = "Made by `python scripts/cards.py` from `results/cards/peaks.csv`."
    return (
        f"{head} What to take on a card, with the predicted peak in GiB:\n\n{_markdown(pd.DataFrame(chosen))}\n\n"
        f"Predicted peaks, GiB:\n\n{_markdown(figures)}"
    )


def _shape(rows: int, tokens: int) -> str:
    return f"{rows} x {tokens:,}"


def _markdown(table: pd.DataFrame) -> str:
    return table.to_markdown(index=False, disable_numparse=True)


def written(page: str, text: str) -> str:
    """Returns a page with its tables replaced."""
    start, end = "<!-- cards -->\n", "<!-- end of cards -->"
    before, rest = page.split(start)
    _, after = rest.split(end)
    return f"{before}{start}\n{text}\n\n{end}{after}"


def main() -> None:
    """Predicts, unless the tables alone are asked for, and writes the page's tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", action="store_true", help="write the tables of the peaks that are there")
    only_tables, page = parser.parse_args().tables, PAGE.read_text(encoding="utf-8")
    if not only_tables:
        made = []
        for model in MODELS:
            for case in asked_of(model):
                made.append(peak(model, *case))
                print(*case, f"{made[-1]['peak_bytes'] / 2**30:.2f} GiB", flush=True)
        PEAKS.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(made).to_csv(PEAKS, index=False)
    PAGE.write_text(written(page, tables(pd.read_csv(PEAKS))), encoding="utf-8")


if __name__ == "__main__":
    main()
