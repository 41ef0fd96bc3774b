"""How many top layers keep their activations within a run's memory budget, found before it trains."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from meft_runner.config import Attention, ReversibleSettings, Settings
from meft_runner.config.sizes import parse_bytes, written_bytes
from meft_runner.errors import UserError
from meft_runner.memory import AUTOCAST, TrainingStep, kernels
from meft_runner.memory.fake import predict_step, twin_step
from meft_runner.memory.search import largest
from meft_runner.memory.shapes import ShapeMode
from meft_runner.methods.stored import reversible_layers, store_layers
from meft_runner.records.memory import Budget
from meft_runner.run.measuring import first_batch
from meft_runner.tasks import TaskData


def plan_budget(settings: Settings, model: nn.Module, data: TaskData, size: int) -> Budget | None:
    """Lets as many top layers keep their activations as `method.budget` holds; None where none is set.

    Each number of them is predicted from the shapes of the run's own model and of B=`size` of its rows, padded to the
    maximum length.

    Raises:
        UserError: the budget does not hold a step in which all layers are reversed.
    """
    method = settings.method
    if not isinstance(method, ReversibleSettings) or not method.reverses or method.budget is None:
        return None
    budget, peaks = parse_bytes("method.budget", method.budget), dict[int, int]()
    accumulating = settings.training.gradient_accumulation > 1
    with _predicted(settings, model, data, size) as step:

        def peak(stored: int) -> int:
            if stored not in peaks:
                store_layers(step.model, stored)
                peaks[stored] = predict_step(step, accumulating).peak_bytes
            return peaks[stored]

        layers = reversible_layers(model)
        peak(layers)
        largest(lambda place: peak(place - 1), budget, limit=layers + 1)
    # Of all that were predicted: a peak may fall a little where another layer keeps its activations.
    fitting = [stored for stored, needed in peaks.items() if needed <= budget]
    if not fitting:
        raise _too_small(settings, method, min(peaks.values()), size)
    stored = max(fitting)
    store_layers(model, stored)
    return Budget(budget_bytes=budget, stored_layers=stored, predicted_peak_bytes=peaks[stored])


@contextmanager
def _predicted(settings: Settings, model: nn.Module, data: TaskData, size: int) -> Iterator[TrainingStep]:
    """Makes the run's training step of fake tensors, with the kernels of its device."""
    on_gpu = next(model.parameters()).device.type == "cuda"
    batch = first_batch(data, size, torch.device("cpu"), padded=True)
    with kernels.machine(has_gpu=on_gpu), ShapeMode(), torch.random.fork_rng(devices=[]):
        step = twin_step(model, batch, AUTOCAST[settings.training.precision.name])
        if on_gpu and settings.backbone.attention is Attention.sdpa:
            kernels.take_fused_attention(step.model)
        yield step


def _too_small(settings: Settings, method: ReversibleSettings, needed: int, size: int) -> UserError:
    smaller = [f"training.batch_size={size // 2}"] if size > 1 else []
    ways = [*smaller, "more method.chunks", "a smaller task.max_length"]
    return UserError(
        f"method.budget={method.budget}: {settings.backbone.name} with method={method.name} and batches of {size} "
        f"needs {written_bytes(needed)} at the least. Take so much, or {', '.join(ways)}."
    )
