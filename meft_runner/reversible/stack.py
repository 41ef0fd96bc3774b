"""A stack of reversible blocks as a module: the forward pass, and the choice of how it is reversed."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from meft_runner.reversible.block import BlockInputs, ReversibleBlock
from meft_runner.reversible.chunks import Chunks
from meft_runner.reversible.coupling import Coupling
from meft_runner.reversible.endings import HandOver, Merge
from meft_runner.reversible.function import ReversibleFunction
from meft_runner.reversible.monitor import ReversalMonitor
from meft_runner.reversible.passes import ForwardPass
from meft_runner.reversible.plan import Plan
from meft_runner.reversible.relay import Relay
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
        kernels: how the integers of exact streams are computed, one of `KERNELS`: `auto` (one Triton kernel a half on
            a GPU, where Triton works), `plain` or `fused`. The bits are the same.
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
        ending = Merge(self.coupling.merge, self.learned_merge)
        return Plan(
            blocks, self.coupling, ending, self.streams, self.chunks, self.cutting, self.monitor, self.offload
        )  # fmt: skip

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
                return _run(plan, hidden, inputs)[0]
            below, above = plan.split(0 if self.mode == "stored" else max(0, len(self.blocks) - self.stored_layers))
            outputs = _reversed(below, hidden, inputs) if below.blocks else None
            if above.blocks:
                outputs = _run(above, hidden, inputs, outputs)
        assert outputs is not None
        return outputs[0]


def _run(plan: Plan, hidden: Tensor, inputs: BlockInputs, below: Sequence[Tensor] | None = None) -> tuple[Tensor, ...]:
    """Runs blocks as ordinary autograd sees them, from `hidden` on or from the outputs of those below."""
    handed = None
    if below is not None:
        handed, inputs = HandOver().taken(below, inputs)
    return plan.ending.outputs(plan.streams, *ForwardPass(plan, hidden, inputs).run(handed), hidden.dtype, inputs)


def _reversed(plan: Plan, hidden: Tensor, inputs: BlockInputs) -> tuple[Tensor, ...]:
    """Runs blocks that are reversed in backward, where there is anything to differentiate."""
    tensors = (*inputs.tensors(), *plan.trainable_parameters())
    if any(tensor is not None and tensor.requires_grad for tensor in (hidden, *tensors)):
        relay = Relay()
        outputs = ReversibleFunction.apply(plan, relay, hidden, *tensors)
        return *(relay.behind(place, output) for place, output in enumerate(outputs[:2])), *outputs[2:]
    return _run(plan, hidden, inputs)
