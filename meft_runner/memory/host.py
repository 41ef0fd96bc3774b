"""What checkpointing with offload moves into the host's memory, followed on tensors of shapes alone."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers import modeling_utils


class _Waiting:
    """What stands for a tensor while it is on the host."""

    def __init__(self, tensor: Tensor) -> None:
        self.shape, self.dtype = tensor.shape, tensor.dtype
        self.size = tensor.numel() * tensor.element_size()


class HostMemory:
    """Takes the place of the hooks with which transformers offloads: they need a GPU, and move nothing without one.

    A tensor that is saved is free on the device from then on; where backward needs it, a new one is made there.

    Attributes:
        live_bytes: of the tensors that wait on the host now. CUDA's allocator of pinned memory makes of each size the
            next power of two; that is not counted.
    """

    def __init__(self) -> None:
        self.live_bytes = 0

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Follows what is offloaded inside."""
        own = modeling_utils.save_on_cpu
        attributes: Any = modeling_utils
        attributes.save_on_cpu = lambda **options: saved_tensors_hooks(self._take, self._give)
        try:
            yield
        finally:
            attributes.save_on_cpu = own

    def _take(self, tensor: Tensor) -> _Waiting:
        waiting = _Waiting(tensor)
        self.live_bytes += waiting.size
        weakref.finalize(waiting, self._forget, waiting.size).atexit = False
        return waiting

    def _give(self, waiting: _Waiting) -> Tensor:
        return torch.empty(waiting.shape, dtype=waiting.dtype)

    def _forget(self, size: int) -> None:
        self.live_bytes -= size
