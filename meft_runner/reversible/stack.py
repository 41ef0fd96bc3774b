"""A stack of reversible blocks as a module: the forward pass, and the choice of how it is reversed."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from meft_runner.reversible.block import BlockInputs, ReversibleBlock
from meft_runner.reversible.border import handed_over, taken_over
from meft_runner.reversible.chunks import Chunks
from meft_runner.reversible.coupling import Coupling
from meft_runner.reversible.function import ReversibleFunction
from meft_runner.reversible.monitor import ReversalMonitor
from meft_runner.reversible.passes import ForwardPass
from meft_runner.reversible.plan import Plan
from meft_runner.reversible.replay import AutocastState
from meft_runner.reversible.streams import make_streams


class ReversibleStack(nn.Module):
    """Reversible blocks run one after the other, with a choice of how backward gets its activations.

    Args:
        blocks: the blocks, bottom first.
        coupling: scales, swap and merge weights.
        mode: `exact` (rebuilt without error), `float` (rebuilt by the paper's arithmetic) or
            `stored` (ordinary autograd over the forward of `exact`).
        grid_bits: the integer grid's step is 2^-grid_bits.
        chunks: into how many a batch is cut, computed one after the other; None for chunks of about 1,024 tokens.
        strict: whether a stream that comes back different stops the run.
        learn_merge: whether the merge weights train, from those of the coupling on.
        offload: whether what `exact` keeps for backward waits in the host's memory.
        kernels: how the integers of exact streams are computed, one of `KERNELS`: `auto` (one kernel a half, Triton's
            on a GPU and Numba's on a CPU, where they work), `plain` or `fused`. The bits are the same.
        stored_layers: how many blocks at the top keep ordinary graphs while those below are reversed; all where there
            are no more.

    Raises:
        ValueError: unknown mode or kernels, or a scale that the mode cannot invert.
    """

    def __init__(
        self,
        blocks: Sequence[ReversibleBlock],
        coupling: Coupling,
        mode: str = "exact",
        grid_bits: int = 16,
        chunks: int | None = None,
        strict: bool = True,
        learn_merge: bool = False,
        offload: bool = False,
        kernels: str = "auto",
        stored_layers: int = 0,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.mode = mode
        self.coupling = coupling
        self.learned_merge = nn.Parameter(torch.tensor(coupling.merge)) if learn_merge else None
        self.streams = make_streams(mode, coupling.scales, grid_bits, kernels)
        self.stored_layers = stored_layers
        self.chunks = chunks
        self.cutting = Chunks
        self.offload = offload
        self.monitor = ReversalMonitor(strict=strict)

    @property
    def plan(self) -> Plan:
        """What a pass needs to know of the stack as it is now."""
        blocks = tuple(block for block in self.blocks if isinstance(block, ReversibleBlock))
        return Plan(blocks, self.coupling, self.streams, self.chunks, self.cutting, self.monitor, self.offload)

    @torch.compiler.disable(reason="a compiled forward pass need not repeat the bits of its backward pass")
    def forward(self, hidden: Tensor, inputs: BlockInputs | None = None) -> Tensor:
        """Runs the blocks, also inside a compiled model as they are.

        Args:
            hidden: (B, S, H), where both streams start.
            inputs: what the blocks read besides.

        Returns:
            The merged streams, (B, S, H), in the dtype of `hidden`.

        Raises:
            RuntimeError: the stack is a copy that nn.DataParallel made, whose weights are no parameters.
            StreamOverflowError: a stream is not finite or leaves the grid.
        """
        if getattr(self, "_is_replica", False):
            raise RuntimeError(
                "nn.DataParallel cannot train a reversible stack: its copies have no parameters. "
                "Start a process for each GPU with torchrun, or set CUDA_VISIBLE_DEVICES to one of them."
            )
        inputs, plan = inputs or BlockInputs(), self.plan
        with AutocastState.current(hidden.device).entered():
            if not torch.is_grad_enabled():
                return self._merged(plan.streams, ForwardPass(plan, hidden, inputs).run(), hidden.dtype)
            below, above = plan.split(0 if self.mode == "stored" else max(0, len(self.blocks) - self.stored_layers))
            streams = None
            if below.blocks:
                streams, inputs = _reversed(below, hidden, inputs)
            if streams is None or above.blocks:
                streams = ForwardPass(above, hidden, inputs).run(streams)
            return self._merged(above.streams, streams, hidden.dtype)

    def _merged(self, streams: Any, pair: tuple[Any, Any], dtype: torch.dtype) -> Tensor:
        """Returns w1 * x1 + w2 * x2, (B, S, H); added in place, since many rows' memory is at its peak here."""
        if self.learned_merge is not None:
            w1, w2 = self.learned_merge.to(dtype)
            return (w1 * streams.value(pair[0], dtype)).add_(w2 * streams.value(pair[1], dtype))
        weighed = zip(self.coupling.merge, pair, strict=True)
        parts = [weight * streams.value(stream, dtype) for weight, stream in weighed if weight]
        return parts[0] if len(parts) == 1 else parts[0].add_(parts[1])


def _reversed(plan: Plan, hidden: Tensor, inputs: BlockInputs) -> tuple[tuple[Any, Any], BlockInputs]:
    """Runs blocks that are reversed in backward; returns streams and inputs for what follows them."""
    tensors = (*inputs.tensors(), *plan.trainable_parameters())
    if any(tensor is not None and tensor.requires_grad for tensor in (hidden, *tensors)):
        outputs = ReversibleFunction.apply(plan, hidden, *tensors)
    else:
        outputs = handed_over(plan.streams, *ForwardPass(plan, hidden, inputs).run(), hidden.dtype, inputs)
    return taken_over(plan.streams, outputs, inputs)
