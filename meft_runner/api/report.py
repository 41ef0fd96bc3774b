"""What the reversible layers of a model have found out about themselves."""

from dataclasses import dataclass
from fractions import Fraction

from torch import nn
from transformers import PreTrainedModel

from meft_runner.api.mistakes import with_value_errors
from meft_runner.errors import UserError
from meft_runner.methods.layers import reversible_stacks
from meft_runner.reversible import ReversibleStack
from meft_runner.reversible.coupling import Weights
from meft_runner.reversible.packing import packed_bits

_STREAM_BYTES = 4  # an element of a stream: an integer of 32 bits, or float32


@dataclass(frozen=True)
class ReversalReport:
    """How a model's layers are reversed, and what the checks of its backward passes found.

    Attributes:
        mode: `exact`, `float` or `stored`.
        coupling: how a layer ties its two streams.
        layers: those that are rebuilt in backward.
        stored_layers: reversible layers that keep their activations instead.
        kept_bytes_per_token: what waits between forward and backward of the layers that are rebuilt: the two last
            streams, and what each layer keeps of its division; 0 where none is rebuilt. Streams of `float` are counted
            in float32.
        checked_steps: backward passes in which the rebuilt streams were compared.
        mismatches: stream elements that came back different, over all passes.
        max_error: the largest distance between the two rebuilt first streams, which started equal.
    """

    mode: str
    coupling: str
    layers: int
    stored_layers: int
    kept_bytes_per_token: int
    checked_steps: int
    mismatches: int
    max_error: float

    def __str__(self) -> str:
        """Returns the report as lines for a terminal."""
        kept = f", {self.stored_layers} more keep their activations" if self.stored_layers else ""
        found = "none checked yet"
        if self.checked_steps:
            found = f"{self.checked_steps} checked, {self.mismatches} mismatches, largest error {self.max_error:g}"
        return (
            f"reversal         {self.mode}: {self.coupling}\n"
            f"layers           {self.layers} rebuilt in backward{kept}\n"
            f"kept             {self.kept_bytes_per_token:,} bytes a token between forward and backward\n"
            f"backward passes  {found}"
        )


@with_value_errors
def reversal_report(model: nn.Module) -> ReversalReport:
    """Tells how a reversible model's layers are reversed, and what the checks so far have found in this process.

    Args:
        model: that `make_reversible` has changed, also wrapped or compiled.

    Raises:
        ValueError: it is not reversible.
    """
    stacks = reversible_stacks(model) if isinstance(model, nn.Module) else []
    if not stacks:
        raise UserError("model: it is not reversible. Call meft_runner.make_reversible(model) first.")
    hidden = next(each for each in model.modules() if isinstance(each, PreTrainedModel)).config.hidden_size
    rebuilt = [_rebuilt(stack) for stack in stacks]
    return ReversalReport(
        mode=stacks[0].mode,
        coupling=_coupling(stacks[0]),
        layers=sum(rebuilt),
        stored_layers=sum(len(stack.blocks) for stack in stacks) - sum(rebuilt),
        kept_bytes_per_token=sum(_kept_bytes(*each, hidden) for each in zip(stacks, rebuilt, strict=True)),
        checked_steps=max(stack.monitor.checked_steps for stack in stacks),
        mismatches=sum(stack.monitor.mismatches for stack in stacks),
        max_error=max(stack.monitor.max_error for stack in stacks),
    )


def _rebuilt(stack: ReversibleStack) -> int:
    return 0 if stack.mode == "stored" else max(0, len(stack.blocks) - stack.stored_layers)


def _kept_bytes(stack: ReversibleStack, rebuilt: int, hidden: int) -> int:
    """Returns what a stack keeps of a token for its lowest blocks, which are rebuilt."""
    if not rebuilt:
        return 0
    total = 2 * hidden * _STREAM_BYTES
    if stack.mode == "float":
        return total
    for block in stack.plan.blocks[:rebuilt]:
        for function, weights in zip((block.f, block.g), stack.coupling.halves, strict=True):
            if function is not None and weights.scale != 1:
                total += -(-hidden * packed_bits(weights.scale.denominator) // 8)
    return total


def _coupling(stack: ReversibleStack) -> str:
    """Returns the equations of a block, as (x1, x2) <- (x2, 1/256 x1 + 255/256 F(x2))."""
    half_1, half_2 = stack.coupling.halves
    first = _sum(half_1, "x1", "F(x2)")
    if all(block.g is None for block in stack.plan.blocks):
        return f"(x1, x2) <- (x2, {first})"
    second = _sum(half_2, "x2", "G(y1)")
    order = "(y2, y1)" if stack.coupling.swap else "(y1, y2)"
    return f"y1 = {first}, y2 = {second}, (x1, x2) <- {order}"


def _sum(weights: Weights, stream: str, added: str) -> str:
    scale = "" if weights.scale == 1 else f"{weights.scale} "
    mu = "" if weights.mu == 1 else f"{Fraction(weights.mu).limit_denominator(10_000)} "
    return f"{scale}{stream} + {mu}{added}"
