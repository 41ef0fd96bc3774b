"""Two ways to know how many bytes are alive: the CUDA allocator, and following storages on CPU."""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch._library import custom_ops
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from meft_runner.memory.blocks import rounded_bytes
from meft_runner.memory.quantised import inside_bytes
from meft_runner.reversible.offload import Copy, PlainCopies, copies_by


class Meter(Protocol):
    """Knows live bytes, and their peak since the last reset, while it is entered."""

    source: str

    def __enter__(self) -> Self:
        """Starts counting."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        """Stops counting."""

    def follow(self, tensors: Iterable[Tensor]) -> None:
        """Counts tensors that were there before the meter was entered."""

    def live_bytes(self) -> int:
        """Returns the bytes alive now."""

    def peak_bytes(self) -> int:
        """Returns the most bytes that were alive at once since the last reset."""

    def reset_peak(self) -> None:
        """Makes the present number of bytes the peak."""

    def host_bytes(self) -> int:
        """Returns the bytes that wait in the host's memory now for a backward pass."""


class CudaMeter:
    """The statistics of the CUDA caching allocator.

    Args:
        device: the device that is read.
    """

    source = "cuda"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __enter__(self) -> Self:
        """Synchronises the device and resets its peak."""
        torch.cuda.synchronize(self.device)
        self.reset_peak()
        return self

    def __exit__(self, *exception: object) -> None:
        """Synchronises the device, so that what comes later is not counted here."""
        torch.cuda.synchronize(self.device)

    def follow(self, tensors: Iterable[Tensor]) -> None:
        """Does nothing: the allocator knows every tensor on the device."""

    def live_bytes(self) -> int:
        """Returns the bytes allocated now."""
        return torch.cuda.memory_allocated(self.device)

    def peak_bytes(self) -> int:
        """Returns the most bytes allocated at once since the last reset."""
        return torch.cuda.max_memory_allocated(self.device)

    def reset_peak(self) -> None:
        """Makes the present number of bytes the peak."""
        torch.cuda.reset_peak_memory_stats(self.device)

    def host_bytes(self) -> int:
        """Returns the bytes of page-locked memory in use, as its allocator rounds them."""
        torch.cuda.synchronize(self.device)
        torch.empty(1, pin_memory=True)  # what was freed after a copy counts as in use until the next allocation
        return int(torch.cuda.host_memory_stats()["active_bytes.current"])


class TrackedMeter(TorchDispatchMode):
    """Follows every storage that an operation makes, by weak reference, and adds up their sizes.

    Each storage is counted once, whatever views share it, from the operation that made it to the
    moment it is freed. What a compiled kernel allocates and frees inside one operation is not seen, except those of
    bitsandbytes, of which it is known, nor are generator states (5 kB each), which are no operation's result.
    What the engine copies to the host is counted there, although without a GPU it is the same memory.
    """

    source = "tracked"

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}
        self._live = 0
        self._peak = 0
        self._host = 0
        self._filling_host = False
        self._entered: list[ExitStack] = []

    def __enter__(self) -> Self:
        """Starts counting; once more inside of an operation that is written in Python."""
        self._entered.append(ExitStack())
        self._entered[-1].enter_context(copies_by(lambda device: _CountedCopies(device, self)))
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        """Stops counting."""
        super().__exit__(*exception)
        self._entered.pop().close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and follows what it returns; inside one that is written in Python, each of its own."""
        kwargs = kwargs or {}
        written = custom_ops._maybe_get_opdef(func)
        if written is not None:
            with self:
                return written._init_fn(*args, **kwargs)
        result = self.run(func, args, kwargs)
        self.follow(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        self._peak = max(self._peak, self._live + inside_bytes(func, args, kwargs))
        return result

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs an operation."""
        return func(*args, **kwargs)

    def follow(self, tensors: Iterable[Tensor]) -> None:
        """Counts the storages of `tensors` that are not counted yet."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self._sizes:
                continue
            if self._filling_host:
                self._sizes[key] = storage.nbytes()
                self._host += storage.nbytes()
            else:
                self._sizes[key] = size = rounded_bytes(storage.nbytes())
                self._live += size
                self._peak = max(self._peak, self._live)
            weakref.finalize(storage, self._forget, key, self._filling_host).atexit = False

    @contextmanager
    def filling_host(self) -> Iterator[None]:
        """Counts what is made inside as the host's."""
        self._filling_host = True
        try:
            yield
        finally:
            self._filling_host = False

    def live_bytes(self) -> int:
        """Returns the bytes alive now."""
        return self._live

    def peak_bytes(self) -> int:
        """Returns the most bytes that were alive at once since the last reset."""
        return self._peak

    def reset_peak(self) -> None:
        """Makes the present number of bytes the peak."""
        self._peak = self._live

    def host_bytes(self) -> int:
        """Returns the bytes that the engine has copied to the host and that wait there now, not rounded."""
        return self._host

    def _forget(self, key: int, on_host: bool) -> None:
        size = self._sizes.pop(key)
        if on_host:
            self._host -= size
        else:
            self._live -= size


class _CountedCopies(PlainCopies):
    """Makes the copies that a GPU would make in its own time, and has those on the host counted there."""

    def __init__(self, device: torch.device, meter: TrackedMeter) -> None:
        super().__init__(device)
        self._meter = meter

    def to_host(self, tensor: Tensor) -> Copy:
        """Returns a copy of the device's tensor on the host."""
        with self._meter.filling_host():
            return super().to_host(tensor)
