"""What a run shows while it goes on: what it will do, and one live line on a terminal, plain lines elsewhere."""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import current_process
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from meft_runner.run import processes
from meft_runner.run.callbacks import LossWatch
from meft_runner.run.results import split_metrics


class Screen:
    """Prints lines of a run; nothing in all but the main process.

    Args:
        name: of the run's folder; precedes each line where several runs print at once, in a launcher's processes.
    """

    def __init__(self, name: str) -> None:
        self._alone = current_process().name == "MainProcess"
        self._prefix = "" if self._alone else f"{name}: "
        self._console = Console(quiet=not processes.is_main(), highlight=False, markup=False, emoji=False)

    def heading(self, text: str) -> None:
        """Prints what the run is."""
        self._console.print(self._prefix + text, style="bold", soft_wrap=True)

    def line(self, label: str, text: str) -> None:
        """Prints one thing about the run."""
        self._console.print(f"{self._prefix}  {label:<10} {text}", soft_wrap=True)

    @contextmanager
    def training(self, splits: Sequence[str], epochs: int, watch: LossWatch) -> Iterator[TrainerCallback]:
        """Shows the training inside; yields what the Trainer has to call. `splits` as of `split_metrics`."""
        live = self._alone and sys.stdout.isatty() and processes.is_main()
        columns = (
            TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=self._console, transient=True, disable=not live) as progress:
            yield _Training(self, progress, list(splits), epochs, watch)


class _Training(TrainerCallback):
    """Moves the bar with every step, and prints a row with every epoch's scores."""

    def __init__(self, screen: Screen, progress: Progress, splits: list[str], epochs: int, watch: LossWatch) -> None:
        self.screen = screen
        self.progress = progress
        self.splits = splits
        self.epochs = epochs
        self.watch = watch
        self._task: TaskID | None = None
        self._row: dict[str, float | None] = {}
        self._began = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the bar where the run goes on."""
        self._task = self.progress.add_task("training", total=state.max_steps, completed=state.global_step, figures="")
        self._began = time.monotonic()
        if state.global_step:
            self.screen.line("resumed", f"after step {state.global_step} of {state.max_steps}")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Moves the bar."""
        rate = kwargs["lr_scheduler"].get_last_lr()[0]
        self._update(
            description="training",
            completed=state.global_step,
            figures=f"loss {self.watch.latest:.4g}  learning rate {rate:.2e}",
        )

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        """Names what goes on between two steps."""
        self._update(description="scoring")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Collects an epoch's figures, and prints them when the last development split has its scores."""
        entry = logs or {}
        if "loss" in entry:
            self._row = {"training loss": entry["loss"]}
        self._row |= split_metrics(entry, self.splits)
        if f"eval_{self.splits[-1]}_loss" in entry:
            self._print(state)

    def _print(self, state: TrainerState) -> None:
        epoch = math.ceil(state.epoch or 0)
        shown = {name: value for name, value in self._row.items() if name != "inverse_perplexity"}  # the loss says it
        figures = "  ".join(f"{name} {_written(name, value)}" for name, value in shown.items())
        seconds = time.monotonic() - self._began
        self.screen.line(f"epoch {epoch}/{self.epochs}", f"step {state.global_step}  {figures}  ({seconds:.0f} s)")

    def _update(self, **what: Any) -> None:
        if self._task is not None:
            self.progress.update(self._task, **what)


def _written(name: str, value: float | None) -> str:
    """Writes a loss and what follows from it as a number, a score in percent; a dash where it is not defined."""
    if value is None:
        return "-"
    return f"{value:.4g}" if "loss" in name or "perplexity" in name else f"{100 * value:.1f}"
