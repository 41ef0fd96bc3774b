"""A block's function as a short list of stages, each of which looks at single tokens or at whole rows.

With stages s_0 .. s_k, a function of x is

    c_0 = s_0(x),    c_i = s_i(x, c_(i-1)) token by token, or s_i(c_(i-1)) on whole rows,    function(x) = c_k

where each c_i is one tensor or several. In a layer of a transformer s_0 makes queries, keys and values, s_1 is the
attention kernel, and s_2 is all that follows it. Only s_1 needs a whole row at once, and it needs no x.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from meft_runner.reversible.block import BlockInputs, TokenwiseModule

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Stage:
    """One step of a function.

    Attributes:
        run: called as run(*tensors, inputs), tensors (B, S, D) or, where token-wise, (T, 1, D) of any T tokens;
            returns one tensor or a tuple of them, of the same first two dimensions. Those of the last stage are the
            function's own result, (B, S, H).
        tokenwise: whether no token of the output depends on another one; of the block inputs it may read those that
            belong to tokens (`BlockInputs.tokens`).
        module: has the parameters that `run` uses.
    """

    run: Callable[..., Tensor | Tensors]
    tokenwise: bool
    module: nn.Module

    def __call__(self, tensors: Tensors, inputs: BlockInputs) -> Tensors:
        """Returns what the stage makes of its tensors."""
        result = self.run(*tensors, inputs)
        return (result,) if isinstance(result, Tensor) else result


@runtime_checkable
class Staged(Protocol):
    """A module that says how it runs in stages."""

    def stages(self) -> Sequence[Stage]:
        """Returns them in order."""
        ...


def stages_of(function: nn.Module) -> Sequence[Stage]:
    """Returns a function's stages; one without any is a stage by itself."""
    if isinstance(function, Staged):
        return function.stages()
    return (Stage(function, isinstance(function, TokenwiseModule), function),)


def joined(stages: Sequence[Stage], module: nn.Module) -> Stage:
    """Returns stages, the first of a function, as one that looks at whole rows.

    Args:
        stages: in order.
        module: has the parameters of all of them.
    """

    def run(x: Tensor, inputs: BlockInputs) -> Tensors:
        carried = stages[0]((x,), inputs)
        for stage in stages[1:]:
            carried = stage((x, *carried) if stage.tokenwise else carried, inputs)
        return carried

    return Stage(run, False, module)
