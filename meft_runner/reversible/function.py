"""The one autograd function of a reversible stack."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from meft_runner.reversible.block import BlockInputs
from meft_runner.reversible.border import handed_over
from meft_runner.reversible.gradients import hooks_aside
from meft_runner.reversible.offload import FromHost, ToHost
from meft_runner.reversible.passes import ForwardPass, ReversePass, Trace
from meft_runner.reversible.plan import Plan
from meft_runner.reversible.replay import AutocastState, random_state_kept

_INPUTS = len(BlockInputs().tensors())


class ReversibleFunction(Function):
    """Runs a stack without a graph and differentiates it by reversal.

    Its tensor inputs are the first hidden states, the fields of the block inputs and the trainable
    parameters; it returns a gradient for each of them that requires one. What it keeps are those inputs, the two last
    streams, and the trace of the forward pass: all of it as saved tensors, but for the generators' states and
    what tells whether the streams come back as they were.
    """

    @staticmethod
    def forward(ctx: Any, plan: Plan, hidden: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        """Runs the blocks and returns what they hand over (`border.py`)."""
        trace = Trace()
        ctx.plan, ctx.dtype = plan, hidden.dtype
        ctx.parameters = tensors[_INPUTS:]  # those that train now, whatever is frozen before backward
        ctx.autocast = AutocastState.current(hidden.device)
        inputs = BlockInputs(*tensors[:_INPUTS])
        with ctx.autocast.entered(), ToHost(hidden.device) if plan.offload else nullcontext() as host:
            streams = ForwardPass(plan, hidden, inputs, trace, host).run()
            outputs = handed_over(plan.streams, *streams, hidden.dtype, inputs)
        ctx.random_states, ctx.last = trace.random_states, trace.last
        ctx.save_for_backward(*tensors, *streams, trace.checksums, *trace.kept)
        ctx.mark_non_differentiable(*(output for output in outputs if not output.is_floating_point()))
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Returns the gradients of forward's arguments, in their order."""
        if all(grad is None for grad in grads):
            return (None,) * len(ctx.needs_input_grad)
        plan, saved = ctx.plan, ctx.saved_tensors
        x1, x2, checksums, *kept = saved[_INPUTS + len(ctx.parameters) :]
        if torch._C._autograd._get_current_graph_task_keep_graph():  # another backward pass may follow
            x1, x2 = x1.clone(), x2.clone()
        trace = Trace(checksums, kept, list(ctx.random_states), ctx.last)
        returning = FromHost(trace.kept, x1.device) if plan.offload else nullcontext()
        states, hooks = random_state_kept(x1.device), hooks_aside(ctx.parameters)
        with states, ctx.autocast.entered(), hooks, returning as host:
            reverse = ReversePass(plan, BlockInputs(*saved[:_INPUTS]), trace, ctx.dtype, host)
            grad_hidden = reverse.run(x1, x2, grads, wants_hidden=ctx.needs_input_grad[1])
        leaves = (*reverse.inputs.tensors(), *ctx.parameters)
        return None, grad_hidden, *(reverse.gradients.get(leaf) for leaf in leaves)
