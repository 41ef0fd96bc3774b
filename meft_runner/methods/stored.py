"""Layers of a reversible model that keep their activations: the top ones, through all of its stacks."""

from torch import nn

from meft_runner.config import BackboneSettings
from meft_runner.errors import UserError
from meft_runner.methods.layers import reversible_stacks


def check_stored(layers: int, backbone: BackboneSettings, count: int) -> None:
    """Makes sure that of so many reversible layers `count` can keep their activations.

    Raises:
        UserError: there are fewer.
    """
    if count > layers:
        named = "1 reversible layer" if layers == 1 else f"{layers} reversible layers"
        raise UserError(f"method.stored_layers={count}: {backbone.name} has {named} here. Take 0 to {layers}.")


def reversible_layers(model: nn.Module) -> int:
    """Returns how many layers of a model are reversible, all stacks together."""
    return sum(len(stack.blocks) for stack in reversible_stacks(model))


def store_layers(model: nn.Module, count: int) -> None:
    """Lets so many layers keep their activations, from the top of the last stack on, and reverses the others."""
    for stack in reversed(reversible_stacks(model)):
        stack.stored_layers = min(count, len(stack.blocks))
        count -= stack.stored_layers
