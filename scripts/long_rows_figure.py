"""The README's figure, of results/memory/llama3_8b-nf4.csv: the peak of a step over the length of the row.

python scripts/long_rows_figure.py
"""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from meft_runner.reports.figures import save_figure

FOLDER, NAME = Path("results/memory"), "llama3_8b-nf4"
CARDS = [8, 12, 16, 24, 48, 80]  # GiB
# Labels of the table, and how each is drawn and called.
LINES = {
    "lora": ("LoRA", "tab:gray", "-", "o"),
    "lora + checkpointing": ("LoRA + gradient checkpointing", "tab:blue", "--", "s"),
    "lora + checkpointing (offload)": ("the same, offloaded to the host", "tab:blue", ":", "s"),
    "lora (reversal=exact, 4 bits)": ("LoRA reversed", "tab:red", "-", "o"),
    "meft1 + offload": ("MEFT1, offloaded to the host", "tab:red", ":", "D"),
}


def figure(table: pd.DataFrame) -> Figure:
    """Draws the predicted peak over the length of the row, a line a method, and cards as level lines."""
    made = Figure(figsize=(8, 4.8), layout="constrained")
    axes = made.subplots()
    for card in CARDS:
        axes.axhline(card, color="black", linewidth=0.6, alpha=0.4)
        axes.annotate(f"{card} GiB card", (1.005, card), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    for label, (shown, colour, line, marker) in LINES.items():
        part = table[table["label"] == label].sort_values("length")
        peaks = part["peak_bytes"] / 2**30
        axes.plot(part["length"], peaks, color=colour, linestyle=line, marker=marker, markersize=4, label=shown)
    axes.set(
        xscale="log", yscale="log", ylim=(5, 110), xlabel="tokens in one row", ylabel="peak of a training step (GiB)",
        title="Llama-3.1-8B, weights in four bits, autocast to bf16: predicted",
    )  # fmt: skip
    lengths = sorted(table["length"].unique())
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.set_yticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper left", fontsize=8)
    return made


def main() -> None:
    """Draws the figure beside its table."""
    for file in save_figure(figure(pd.read_csv(FOLDER / f"{NAME}.csv")), FOLDER, NAME):
        print(file)


if __name__ == "__main__":
    main()
