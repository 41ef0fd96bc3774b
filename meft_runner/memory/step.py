"""What a training step needs, split into parameters, gradients, optimizer state and activations."""

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from meft_runner.memory.blocks import rounded_bytes
from meft_runner.memory.meters import Meter
from meft_runner.memory.quantised import tensors_beside

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}  # autocast's dtype, by the precision's name


@dataclass(frozen=True)
class StepMemory:
    """Bytes alive at the peak of a training step, and what they are.

    The first four add up to the fifth.

    Attributes:
        parameters_bytes: parameters and buffers, those that are quantised with their scales.
        gradients_bytes: gradients held by parameters at the moment of the peak.
        optimizer_bytes: optimizer state.
        activations_bytes: everything else.
        peak_bytes: the peak.
        activation_paper_bytes: the peak less what is allocated between steps (the paper's measure).
        retained_after_forward_bytes: what the forward pass left for the backward pass.
        host_bytes: what it moved into the host's memory for it, beside all of these: as it is where that is predicted
            or tracked, and page-locked in powers of two where CUDA measures it.
    """

    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    peak_bytes: int
    activation_paper_bytes: int
    retained_after_forward_bytes: int
    host_bytes: int = 0

    def as_dict(self) -> dict[str, int]:
        """Returns the columns by name."""
        return asdict(self)


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Returns the bytes of the tensors' storages, each counted once and rounded as the allocator rounds."""
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(rounded_bytes(size) for size in storages.values())


def measure_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    forward: Callable[[], Tensor],
    meter: Meter,
    accumulating: bool = False,
    rehearse: bool = True,
) -> StepMemory:
    """Runs a training step to measure it when the optimizer's state exists, without what is not the model's.

    Args:
        model: a prepared model; its weights change as the optimizer changes them.
        optimizer: over the model's trainable parameters.
        forward: runs the model on a batch and returns the loss, a scalar.
        meter: the source of the figures.
        accumulating: measure a step whose gradients are added to those of an earlier pass.
        rehearse: run a whole step before it, for what is made once; else the optimizer's state alone is made.
    """
    gc.collect()
    optimizer.zero_grad(set_to_none=True)
    with meter:
        meter.follow(held_tensors(model, optimizer))
        if rehearse:
            forward().backward()
            end_step(optimizer)
        else:
            make_optimizer_state(model, optimizer)
        between = meter.live_bytes()
        held = tensor_bytes(held_tensors(model, optimizer))
        if accumulating:
            forward().backward()
        watch = _PeakWatch(meter, model)
        with watch.following():
            loss, retained, offloaded = _left_by(forward, meter)
            loss.backward()
            del loss
            end_step(optimizer)
    parameters = tensor_bytes(weights_of(model))
    beside = watch.peak - between  # gradients and activations
    return StepMemory(
        parameters_bytes=parameters,
        gradients_bytes=watch.gradients_at_peak,
        optimizer_bytes=held - parameters,
        activations_bytes=beside - watch.gradients_at_peak,
        peak_bytes=held + beside,
        activation_paper_bytes=beside,
        retained_after_forward_bytes=retained,
        host_bytes=offloaded,
    )


def _left_by(forward: Callable[[], Tensor], meter: Meter) -> tuple[Tensor, int, int]:
    """Returns the loss of a forward pass, and the bytes that it has left on the device and on the host."""
    live, on_host = meter.live_bytes(), meter.host_bytes()
    loss = forward()
    return loss, meter.live_bytes() - live, meter.host_bytes() - on_host


class _PeakWatch:
    """Finds the peak of a step and how many gradient bytes were held then.

    Between two gradients' arrival the held gradients do not change, so the peak of each such stretch
    is read and compared: that works alike for a meter that only knows its peak since a reset.
    """

    def __init__(self, meter: Meter, model: nn.Module) -> None:
        self.meter = meter
        self.model = model
        self.peak = 0
        self.gradients_at_peak = 0
        self._gradients = {id(p): _gradient_bytes(p) for p in model.parameters() if p.grad is not None}
        meter.reset_peak()

    @contextmanager
    def following(self) -> Iterator[None]:
        """Watches what happens inside."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        hooks = [parameter.register_post_accumulate_grad_hook(self._gradient_arrived) for parameter in trained]
        try:
            yield
        finally:
            self._close_stretch()
            for hook in hooks:
                hook.remove()

    def _gradient_arrived(self, parameter: Tensor) -> None:
        self._close_stretch()
        self._gradients[id(parameter)] = _gradient_bytes(parameter)

    def _close_stretch(self) -> None:
        if self.meter.peak_bytes() > self.peak:
            self.peak, self.gradients_at_peak = self.meter.peak_bytes(), sum(self._gradients.values())
        self.meter.reset_peak()


def _gradient_bytes(parameter: Tensor) -> int:
    assert parameter.grad is not None
    return rounded_bytes(parameter.grad.untyped_storage().nbytes())


def make_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Makes an optimizer's state by a step with zero gradients, which needs no forward pass."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    end_step(optimizer)


def end_step(optimizer: torch.optim.Optimizer) -> None:
    """Takes an optimizer's step and lets the gradients go."""
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def held_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Returns what lives from step to step: parameters, buffers and optimizer state."""
    states = (value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))
    return [*weights_of(model), *states]


def weights_of(model: nn.Module) -> list[Tensor]:
    """Returns a model's parameters and buffers, and the scales of those that are quantised."""
    return [*model.parameters(), *model.buffers(), *(tensor for _, tensor in tensors_beside(model).values())]
