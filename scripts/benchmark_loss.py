"""The loss head of a language model in several forms: time, memory and the error of its value.

    python scripts/benchmark_loss.py                           # 512 positions, hidden 128, 16,000 tokens
    python scripts/benchmark_loss.py --hidden 4096 --vocabulary 128256 --positions 4096     # Llama-3.1-8B, on a GPU

`plain` projects the labelled tokens' states and keeps their logits; `sum` and `none` are torch's linear_cross_entropy
with that reduction, a number of tokens at a time. `sum` makes its gradient together with the loss, `none` computes the
logits again for it. The head is frozen and the gradient is that of the states at all positions, of which a share is
labelled: either these alone are copied out, or all are computed. `meft_runner/backbones/answers.py` chooses by this
table. Every round runs each form in turn; the fastest round is taken.
"""

import argparse
import itertools
import time
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.nn import LinearCrossEntropyOptions
from torch.nn import functional as F

from meft_runner.backbones.answers import IGNORED
from meft_runner.memory import meter_for
from meft_runner.reports.tables import write_tables
from meft_runner.run.console import print_table

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Form(NamedTuple):
    """One way to compute the loss.

    Attributes:
        name: plain, or the reduction of torch's own.
        chunk: tokens whose logits exist at once; 0 for all.
        copied: whether the labelled states are copied out.
    """

    name: str
    chunk: int
    copied: bool

    def __call__(self, states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """Returns the summed loss, float32, of (N, H) states and (N,) targets."""
        if self.copied:
            labelled = (targets != IGNORED).nonzero().squeeze(1)
            states, targets = states.index_select(0, labelled), targets.index_select(0, labelled)
        if self.name == "plain":
            return F.cross_entropy(F.linear(states, weight).float(), targets, ignore_index=IGNORED, reduction="sum")
        options = LinearCrossEntropyOptions(batch_chunk_size=self.chunk)
        return F.linear_cross_entropy(states, weight, targets, reduction=self.name, options=options).float().sum()


FORMS = [
    Form("plain", 0, True),
    *(Form(name, chunk, True) for name in ("sum", "none") for chunk in (64, 256, 1024)),
    Form("sum", 256, False),
    Form("none", 256, False),
]


def benchmark(arguments: argparse.Namespace) -> pd.DataFrame:
    """Returns the table: a row a precision, a number of labelled tokens and a form."""
    half, whole = arguments.positions // 2, arguments.positions
    counts = sorted({min(count, whole) for count in (16, 64, 256, half, whole)})
    return pd.DataFrame(
        row
        for dtype, labelled in itertools.product((torch.float32, torch.bfloat16), counts)
        for row in compare(_case(arguments, dtype, labelled), labelled, arguments.rounds)
    )


def compare(case: tuple[Tensor, Tensor, Tensor], labelled: int, rounds: int) -> list[dict[str, Any]]:
    """Returns the rows of one case: states, weight and targets."""
    with torch.no_grad():
        exact = FORMS[0](*(part.float() if part.is_floating_point() else part for part in case)).item()
    memory = {form: _memory_and_loss(form, *case) for form in FORMS}
    seconds: dict[Form, list[float]] = {form: [] for form in FORMS}
    for _, form in itertools.product(range(rounds), FORMS):
        seconds[form].append(_seconds(form, *case))
    fastest = {form: min(values) for form, values in seconds.items()}
    return [
        {
            "dtype": str(case[0].dtype).removeprefix("torch."),
            "labelled": labelled,
            "form": form.name,
            "at once": form.chunk or labelled,
            "computed": "labelled" if form.copied else "all",
            "time (ms)": round(1000 * fastest[form], 1),
            "time / plain": round(fastest[form] / fastest[FORMS[0]], 2),
            "peak (MiB)": round(peak / 2**20, 1),
            "error of the loss (%)": round(100 * abs(loss / exact - 1), 3),
        }
        for form, (peak, loss) in memory.items()
    ]


def _case(arguments: argparse.Namespace, dtype: torch.dtype, labelled: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (N, H) states, the (V, H) weight and (N,) targets, the last ones labelled."""
    torch.manual_seed(0)
    states = torch.randn(arguments.positions, arguments.hidden, device=DEVICE).to(dtype).requires_grad_(True)
    weight = (0.1 * torch.randn(arguments.vocabulary, arguments.hidden, device=DEVICE)).to(dtype)
    targets = torch.randint(arguments.vocabulary, (arguments.positions,), device=DEVICE)
    targets[: arguments.positions - labelled] = IGNORED
    return states, weight, targets


def _memory_and_loss(form: Form, states: Tensor, weight: Tensor, targets: Tensor) -> tuple[int, float]:
    """Returns the most bytes alive at once beside the arguments, and the loss."""
    with meter_for(DEVICE) as meter:
        meter.follow([states, weight, targets])
        meter.reset_peak()
        before = meter.live_bytes()
        loss = form(states, weight, targets)
        loss.backward()
        peak = meter.peak_bytes() - before
    states.grad = None
    return peak, loss.item()


def _seconds(form: Form, states: Tensor, weight: Tensor, targets: Tensor) -> float:
    started = time.perf_counter()
    form(states, weight, targets).backward()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    states.grad = None
    return time.perf_counter() - started


def main() -> None:
    """Runs the benchmark, prints its table and writes it beside the other results."""
    parser = argparse.ArgumentParser(description="Forms of a language model's loss head.")
    for name, default in (("positions", 512), ("hidden", 128), ("vocabulary", 16000), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--output", type=Path, default=Path("results/loss"), help="folder of the table's files")
    arguments = parser.parse_args()
    table = benchmark(arguments)
    name = f"hidden{arguments.hidden}-vocabulary{arguments.vocabulary}-{DEVICE.type}"
    print_table(table, title=f"{name}, {arguments.positions} positions, torch {torch.__version__}")
    write_tables({name: table}, arguments.output)


if __name__ == "__main__":
    main()
