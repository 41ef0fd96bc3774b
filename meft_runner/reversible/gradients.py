"""Gradients of single evaluations, and their sums over pieces, rows and blocks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from meft_runner.reversible.block import BlockInputs, rows_of
from meft_runner.reversible.stages import Tensors


class InputRows(NamedTuple):
    """Some rows of a differentiable block input, as one evaluation reads them.

    Attributes:
        whole: the input, of the whole batch.
        place: of the rows.
        leaf: the rows, a leaf of the evaluation's graph.
    """

    whole: Tensor
    place: slice
    leaf: Tensor


@dataclass(frozen=True)
class Graph:
    """One evaluation of a stage, with its graph.

    Attributes:
        module: whose parameters were used.
        outputs: what came out.
        x: the function's argument as this stage read it, a leaf; None where it did not.
        carried: what the stage before it returned, leaves.
        read: the differentiable inputs that it read besides.
    """

    module: nn.Module
    outputs: Tensors
    x: Tensor | None
    carried: Tensors
    read: Sequence[InputRows]


@contextmanager
def hooks_aside(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Takes the hooks of parameters off while the gradients of pieces are taken.

    `torch.autograd.grad` calls a tensor's hooks for each piece, and autograd calls them again with the whole gradient
    that the pass returns; the latter alone is what a hook expects.
    """
    hooked = [(parameter, parameter._backward_hooks) for parameter in parameters if parameter._backward_hooks]
    for parameter, _ in hooked:
        parameter._backward_hooks = None
    try:
        yield
    finally:
        for parameter, hooks in hooked:
            parameter._backward_hooks = hooks


def input_rows(inputs: BlockInputs, place: slice) -> tuple[BlockInputs, list[InputRows]]:
    """Returns block inputs for some rows, and those of them that are leaves to be differentiated."""
    leaves = inputs.map(lambda tensor: rows_of(tensor, place).detach().requires_grad_(tensor.requires_grad))
    pairs = zip(inputs.tensors(), leaves.tensors(), strict=True)
    both = [(whole, rows) for whole, rows in pairs if whole is not None and rows is not None]
    return leaves, [InputRows(whole, place, rows) for whole, rows in both if rows.requires_grad]


@dataclass
class Gradients:
    """Sums of gradients, by the tensor that they belong to.

    Attributes:
        sums: by the tensor's id.
        checking: whether evaluations are looked through for tensors that train and are none of their module's.
    """

    sums: dict[int, Tensor] = field(default_factory=dict)
    checking: bool = False
    _trained: dict[int, list[nn.Parameter]] = field(default_factory=dict)

    def take(self, graph: Graph, grads: Sequence[Tensor | None]) -> tuple[Tensor | None, list[Tensor | None]]:
        """Differentiates one evaluation, and adds what its parameters and inputs get.

        Args:
            graph: the evaluation.
            grads: gradients of its outputs, None for an output that nothing reads.

        Returns:
            The gradients of x and of what was carried, None where there is none.

        Raises:
            RuntimeError: another tensor trains in it, which would get no gradient.
        """
        parameters = self._trained_by(graph.module)
        first = [leaf for leaf in (graph.x, *graph.carried) if leaf is not None and leaf.requires_grad]
        wanted = [*first, *(rows.leaf for rows in graph.read), *parameters]
        given = [
            (output, grad.to(output.dtype))
            for output, grad in zip(graph.outputs, grads, strict=True)
            if output.requires_grad and grad is not None
        ]
        if self.checking:
            _check_leaves([output for output, _ in given], wanted)
        found: list[Tensor | None] = [None] * len(wanted)
        if wanted and given:
            outputs, grads_of_outputs = zip(*given, strict=True)
            with torch.autocast(outputs[0].device.type, enabled=False):  # backward runs in the dtypes of forward
                found = list(torch.autograd.grad(outputs, wanted, grads_of_outputs, allow_unused=True))
        by_leaf = {id(leaf): found.pop(0) for leaf in first}
        for rows in graph.read:
            self._add_rows(rows, found.pop(0))
        for parameter, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                shared = any(_same_storage(gradient, grad) for _, grad in given)  # as of x + parameter
                self.add(parameter, gradient.clone() if shared else gradient)  # the pass changes `grads` in place
        return by_leaf.get(id(graph.x)), [by_leaf.get(id(leaf)) for leaf in graph.carried]

    def add(self, tensor: Tensor, gradient: Tensor) -> None:
        """Adds a gradient to a tensor's sum."""
        total = self.sums.get(id(tensor))
        self.sums[id(tensor)] = gradient if total is None else total + gradient

    def get(self, tensor: Tensor | None) -> Tensor | None:
        """Returns a tensor's sum, None where it got no gradient."""
        return self.sums.get(id(tensor))

    def _trained_by(self, module: nn.Module) -> list[nn.Parameter]:
        """Returns a module's trainable parameters; to look for them costs as much time as a small piece."""
        if id(module) not in self._trained:
            self._trained[id(module)] = [p for p in module.parameters() if p.requires_grad]
        return self._trained[id(module)]

    def _add_rows(self, rows: InputRows, gradient: Tensor | None) -> None:
        if gradient is None:
            return
        if id(rows.whole) not in self.sums:
            self.sums[id(rows.whole)] = torch.zeros_like(rows.whole)
        rows_of(self.sums[id(rows.whole)], rows.place).add_(gradient)


def _check_leaves(outputs: Sequence[Tensor], known: Sequence[Tensor]) -> None:
    """Makes sure that nothing trains in an evaluation but what is known."""
    leaves = {id(leaf) for leaf in known}
    ahead: list[Any] = [output.grad_fn for output in outputs]
    seen = {None}
    while ahead:
        node = ahead.pop()
        if node in seen:
            continue
        seen.add(node)
        ahead += [before for before, _ in node.next_functions]
        leaf = getattr(node, "variable", None)  # of a node that hands a leaf its gradient
        if leaf is not None and id(leaf) not in leaves:
            raise RuntimeError(
                f"a tensor of shape {tuple(leaf.shape)} trains in a reversible layer and is no parameter of it, as one "
                "that a hook adds: a reversal gives it no gradient. Register it as a parameter of a module inside the "
                "layer, or take reversal=stored."
            )


def _same_storage(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage()._cdata == other.untyped_storage()._cdata
