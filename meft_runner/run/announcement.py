"""What a run prints before it trains: its rows, what its settings come to, its model and the memory of a step."""

from pathlib import Path

import torch

from meft_runner.backbones.weights import is_quantised
from meft_runner.config import Settings, WeightForm
from meft_runner.config.methods import with_reversal
from meft_runner.config.sizes import written_bytes
from meft_runner.records.memory import Budget, Memory
from meft_runner.records.schema import Data, Origin, Parameters
from meft_runner.run.arguments import Plan
from meft_runner.run.console import MIB
from meft_runner.run.display import Screen
from meft_runner.tasks import TaskData


def show_run(settings: Settings, directory: Path, screen: Screen) -> None:
    """Prints what is run and where its files will be."""
    reversal = getattr(settings.method, "reversal", None)
    method = with_reversal(settings.method.name, reversal and reversal.name)
    screen.heading(f"{settings.backbone.name} on {settings.task.name} with {method}, seed {settings.seed}")
    screen.line("folder", str(directory))


def show_rows(data: TaskData, described: Data, screen: Screen) -> None:
    """Prints how many rows there are and what their labels are, and what else is to be known of them."""
    scored = " and ".join(f"{len(split.rows):,} of {name}" for name, split in data.evaluation.items())
    labels = f"; {described.labels}" if described.labels else ""
    screen.line("rows", f"{len(data.train):,} to train on, {scored} to score{labels}")
    for note in described.notes:
        screen.line("note", note)


def show_training(settings: Settings, planned: Plan, screen: Screen) -> None:
    """Prints what the settings of training come to, and which of them come to something else than they say."""
    training = settings.training
    accumulated = f" x {planned.gradient_accumulation}" if planned.gradient_accumulation > 1 else ""
    order = "of about one length" if planned.by_length else "in random order"
    epochs = f"{planned.steps:,}, {planned.epoch_steps:,} an epoch"
    screen.line("steps", f"{epochs}, of {planned.batch_size}{accumulated} rows {order}")
    warmup = f", {_counted(planned.warmup_steps, 'step')} of warm-up" if planned.warmup_steps else ""
    rate = f"learning rate {training.learning_rate:g}{warmup}"
    screen.line("training", f"{rate}, {training.precision.name}; {_end(settings, planned)}")
    for note in planned.notes:
        screen.line("note", note)


def show_model(parameters: Parameters, device: torch.device, form: WeightForm, screen: Screen) -> None:
    """Prints how large the model is, how much of it trains, and in which form the rest is held."""
    share = 100 * parameters.trainable / parameters.total
    text = f"{parameters.total:,} parameters, of which {parameters.trainable:,} ({share:.2f} %) train"
    others = "the layers' matrices" if is_quantised(form) else "the others"
    held = "" if form is WeightForm.fp32 else f", {others} as {form.name}"
    screen.line("model", f"{text}{held}, on {device.type}")


def show_origin(origin: Origin, screen: Screen) -> None:
    """Prints which weights of an earlier run are taken, and which begin anew."""
    anew = f", {len(origin.anew)} of its task head begin anew ({origin.reason})" if origin.anew else ""
    screen.line("begins", f"with {_counted(origin.taken, 'trained tensor')} of {origin.run}{anew}")


def show_budget(budget: Budget, layers: int, screen: Screen) -> None:
    """Prints how many layers keep their activations within a memory budget."""
    stored, peak = budget.stored_layers, written_bytes(budget.predicted_peak_bytes)
    how_many = f"the top {stored} of {layers} layers keep their activations" if stored else "all layers are reversed"
    screen.line("budget", f"{how_many}: {peak} at the peak (predicted), of {written_bytes(budget.budget_bytes)}")


def show_memory(memory: Memory, budget: Budget | None, screen: Screen) -> None:
    """Prints the memory that was measured, and whether that is more than there was to be."""
    activations, peak = memory.activations_bytes / MIB, memory.peak_bytes / MIB
    where = f"batch {memory.batch_size} x length {memory.length}"
    screen.line("memory", f"{activations:,.1f} MiB of activations, {peak:,.1f} MiB at the peak (measured, {where})")
    if memory.host_bytes:
        size, on_gpu = f"{memory.host_bytes / MIB:,.1f} MiB", memory.source == "cuda"
        there = "page-locked for what waits there" if on_gpu else "wait there"
        saved = "" if on_gpu else "; a CPU computes in the same memory, so method.offload saves nothing here"
        screen.line("host", f"{size} {there} from forward to backward{saved}")
    if budget is not None and memory.peak_bytes > budget.budget_bytes:
        more = written_bytes(memory.peak_bytes - budget.budget_bytes)
        screen.line("note", f"that is {more} more than method.budget: predicted peaks are off by up to 1 %")


def _end(settings: Settings, planned: Plan) -> str:
    """Returns when training ends, in words."""
    patience = settings.training.patience
    if patience >= planned.epochs:
        return "no early stop"
    return f"stops after {_counted(patience, 'epoch')} without a better score"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")
