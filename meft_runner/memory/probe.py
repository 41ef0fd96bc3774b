"""Memory of a run's training step: its own model and batch size, padded to the maximum length."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from meft_runner.memory.meters import CudaMeter, Meter, TrackedMeter
from meft_runner.memory.step import StepMemory, measure_step
from meft_runner.memory.training import training_step


def probe(
    model: nn.Module, batch: Mapping[str, Tensor], autocast: torch.dtype | None, accumulating: bool = False
) -> StepMemory:
    """Measures a few training steps and leaves the model and the random state as they were.

    Args:
        model: a prepared model, on the device that is measured.
        batch: the model's inputs with labels, on the same device.
        autocast: the dtype of autocast, None for float32.
        accumulating: whether a step of the run adds up the gradients of several passes.
    """
    step, device = training_step(model, batch, autocast), next(model.parameters()).device
    was_training = model.training
    model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        memory = measure_step(*step, meter_for(device), accumulating)
    model.train(was_training)
    return memory


def meter_for(device: torch.device) -> Meter:
    """Returns the source of figures for a device: the allocator on CUDA, followed storages elsewhere."""
    return CudaMeter(device) if device.type == "cuda" else TrackedMeter()
