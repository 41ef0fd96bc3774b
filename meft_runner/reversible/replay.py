"""Running a function again as it ran the first time: random draws, autocast, and the kernel of attention."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

# The states of the generators that a computation may draw from.
RandomState = tuple[Tensor, ...]


def random_state(device: torch.device) -> RandomState:
    """Returns the generator states that a computation on `device` may draw from."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return tuple(states)


def set_random_state(states: RandomState, device: torch.device) -> None:
    """Sets the generators back to `states`, as `random_state` returned them."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Leaves the generators afterwards as they were before, whatever happens inside."""
    before = random_state(device)
    try:
        yield
    finally:
        set_random_state(before, device)


@dataclass(frozen=True)
class AutocastState:
    """Whether autocast was on for a device type, and to which dtype."""

    device_type: str
    enabled: bool
    dtype: torch.dtype

    @classmethod
    def current(cls, device: torch.device) -> "AutocastState":
        """Returns the state in force for `device`."""
        return cls(device.type, torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Brings this state into force, and leaves the choice of attention kernels to what does not change it.

        The cache of cast weights stays off: a weight that was cast while gradients were disabled
        would be found there without a graph when the same function is differentiated.
        """
        state = torch.autocast(self.device_type, dtype=self.dtype, enabled=self.enabled, cache_enabled=False)
        with state, repeatable_attention():
            yield


@contextmanager
def repeatable_attention() -> Iterator[None]:
    """Leaves cuDNN's kernel of attention out inside, unless it is the only one that is allowed.

    Torch prefers it on GPUs of data centers from Hopper on, and asks it for the softmax's sums where a gradient is
    wanted alone. Those are two kernels, built for a forward pass without a graph and for its repetition with one, and
    nothing promises the same bits of both. The other kernels do not depend on it.
    """
    kernels = torch.backends.cuda
    others = kernels.flash_sdp_enabled() or kernels.mem_efficient_sdp_enabled() or kernels.math_sdp_enabled()
    before = kernels.cudnn_sdp_enabled()
    kernels.enable_cudnn_sdp(before and not others)
    try:
        yield
    finally:
        kernels.enable_cudnn_sdp(before)
