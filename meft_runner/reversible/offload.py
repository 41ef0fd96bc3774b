"""What a forward pass keeps for its backward pass, waiting in the host's memory in between.

A copy runs beside what the device computes: on a GPU in a stream of its own, from and to page-locked memory. That
memory is torch's: its allocator keeps what is freed for the next step, makes of each size the next power of two, and
gives nothing out again before the copies from and to it are done. On the device a tensor is held until the present
stream waits for its copy, so that nothing is written over it earlier. (`Tensor.record_stream` would hold it for as
long as the host is ahead of the device, which may be whole layers.)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor


class Copy(NamedTuple):
    """A copy that has been started.

    Attributes:
        result: what it fills.
        wait: makes what the device is given from now on come after the copy.
    """

    result: Tensor
    wait: Callable[[], None]


class Copies(Protocol):
    """Makes copies between a device and the host, each after all that the device has been given before."""

    def to_host(self, tensor: Tensor) -> Copy:
        """Starts a copy of the device's tensor on the host."""

    def to_device(self, tensor: Tensor) -> Copy:
        """Starts a copy of the host's tensor on the device."""

    def finish(self) -> None:
        """Returns when all copies are done."""


class PlainCopies:
    """Copies at once: without a GPU nothing is saved, but everything else is as with one.

    Args:
        device: of the tensors that are computed with.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def to_host(self, tensor: Tensor) -> Copy:
        """Returns a copy of the device's tensor on the host."""
        return Copy(torch.empty_like(tensor, device="cpu").copy_(tensor), lambda: None)

    def to_device(self, tensor: Tensor) -> Copy:
        """Returns a copy of the host's tensor on the device."""
        return Copy(torch.empty_like(tensor, device=self.device).copy_(tensor), lambda: None)

    def finish(self) -> None:
        """Does nothing: they are."""


class CudaCopies:
    """Copies in a stream of their own, from and to page-locked memory.

    Args:
        device: a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = _copy_stream(device)

    def to_host(self, tensor: Tensor) -> Copy:
        """Starts a copy of the device's tensor on the host."""
        return self._start(torch.empty_like(tensor, device="cpu", pin_memory=True), tensor)

    def to_device(self, tensor: Tensor) -> Copy:
        """Starts a copy of the host's tensor on the device, after all that this stream copies to the host."""
        return self._start(torch.empty_like(tensor, device=self.device), tensor)

    def finish(self) -> None:
        """Returns when all copies are done."""
        self.stream.synchronize()

    def _start(self, target: Tensor, source: Tensor) -> Copy:
        self.stream.wait_stream(torch.cuda.current_stream(self.device))  # it wrote the source, or used target's memory
        with torch.cuda.stream(self.stream):
            target.copy_(source, non_blocking=True)
            done = self.stream.record_event()
        return Copy(target, lambda: torch.cuda.current_stream(self.device).wait_event(done))


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """Returns the one stream of a device in which all stacks copy."""
    return torch.cuda.Stream(device)


def _usual_copies(device: torch.device) -> Copies:
    return CudaCopies(device) if device.type == "cuda" else PlainCopies(device)


_MAKERS: list[Callable[[torch.device], Copies]] = [_usual_copies]  # the last one makes those of new passes


@contextmanager
def copies_by(made: Callable[[torch.device], Copies]) -> Iterator[None]:
    """Lets the copies of passes that begin inside be made in another way: counted, for instance."""
    _MAKERS.append(made)
    try:
        yield
    finally:
        _MAKERS.pop()


class ToHost:
    """Sends tensors of a forward pass to the host, one at a time.

    When the context ends they are there, for whoever reads them: hooks on saved tensors do. A pass that has just read
    its peaks waits for nothing more.

    Args:
        device: where they are.
    """

    def __init__(self, device: torch.device) -> None:
        self._copies = _MAKERS[-1](device)
        self._leaving: tuple[Tensor, Copy] | None = None

    def __enter__(self) -> Self:
        """Sends nothing yet."""
        return self

    def put(self, tensor: Tensor) -> Tensor:
        """Returns a tensor on the host that receives this one's values; the one before is let go on the device."""
        if self._leaving is not None:
            self._leaving[1].wait()
        copy = self._copies.to_host(tensor)
        self._leaving = tensor, copy
        return copy.result

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for all of them, and lets the last one go."""
        self._copies.finish()
        self._leaving = None


class FromHost:
    """Brings tensors back for a backward pass, the last one first, each while the one after it is computed with.

    One is enough: a half computes for many times as long as a remainder, some bits an element, takes to come.

    Args:
        waiting: those that are on the host, in the order in which they were sent; None for halves without.
        device: where they are wanted.
    """

    def __init__(self, waiting: Sequence[Tensor | None], device: torch.device) -> None:
        self._waiting = list(waiting)
        self._copies = _MAKERS[-1](device)
        self._coming: Copy | None = None

    def __enter__(self) -> Self:
        """Starts to bring the last one."""
        self._fetch()
        return self

    def take(self) -> Tensor | None:
        """Returns the last of those that have not been taken, and starts to bring the one before."""
        if self._waiting.pop() is None:
            return None
        assert self._coming is not None
        self._coming.wait()
        taken = self._coming.result
        self._fetch()
        return taken

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives up what was not taken, once it is there."""
        if self._coming is not None:
            self._coming.wait()
            self._coming = None

    def _fetch(self) -> None:
        following = next((tensor for tensor in reversed(self._waiting) if tensor is not None), None)
        self._coming = None if following is None else self._copies.to_device(following)
