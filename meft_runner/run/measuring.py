"""The memory of a run's own training step, measured before training begins."""

from typing import Any

import torch
from torch import Tensor, nn

from meft_runner.backbones import positions
from meft_runner.config import Settings
from meft_runner.memory import AUTOCAST, probe
from meft_runner.methods.layers import reversible_stacks
from meft_runner.records.memory import Memory
from meft_runner.run.failures import free_memory, out_of_memory
from meft_runner.tasks import TaskData

LARGE = 2**15  # tokens of a batch that is worth asking first whether it fits


def first_batch(data: TaskData, size: int, device: torch.device, padded: bool = False) -> dict[str, Tensor]:
    """Returns the first B=`size` rows as a batch, padded to each other or, with `padded`, to the maximum length."""
    rows = [dict(data.train[index]) for index in range(size)]
    for row in rows:
        row.pop("length", None)
    return {name: tensor.to(device) for name, tensor in data.collate(rows, to_maximum=padded).items()}


def measure_memory(settings: Settings, model: nn.Module, data: TaskData, size: int) -> Memory:
    """Returns what steps of B=`size` rows need, padded to the maximum length.

    Raises:
        UserError: the step would not fit into the machine's memory.
    """
    device = next(model.parameters()).device
    one = first_batch(data, 1, device, padded=True)
    config: Any = model.config  # a peft model hands on its model's
    length = one["input_ids"].shape[1] if "input_ids" in one else positions(config)
    if device.type == "cpu" and size > 2 and size * length > LARGE:
        _check_fits(settings, model, data, size)
    memory = _probe(settings, model, data, size)
    for stack in reversible_stacks(model):
        stack.monitor.reset()
    source = "cuda" if device.type == "cuda" else "tracked"
    return Memory(source=source, **memory.as_dict(), batch_size=size, length=length)


def _probe(settings: Settings, model: nn.Module, data: TaskData, size: int) -> Any:
    batch = first_batch(data, size, next(model.parameters()).device, padded=True)
    accumulating = settings.training.gradient_accumulation > 1
    return probe(model, batch, AUTOCAST[settings.training.precision.name], accumulating)


def _check_fits(settings: Settings, model: nn.Module, data: TaskData, size: int) -> None:
    """Concludes from one and two rows: where a CPU's memory runs out, no error comes, the system ends the process.

    Raises:
        UserError: the step would need more than is free.
    """
    probes = (_probe(settings, model, data, rows) for rows in (1, 2))
    one, two = (probe.activations_bytes + probe.host_bytes for probe in probes)  # a CPU's memory is the host's
    if one + (size - 1) * max(0, two - one) > free_memory():
        raise out_of_memory(settings, torch.device("cpu"))
