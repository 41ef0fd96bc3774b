"""A reversible stack in the place of a model's layers: called as a layer is, and saved under the layers' names."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from torch import Tensor, nn

from meft_runner.backbones.kept_keys import can_keep, keeping
from meft_runner.reversible import BlockInputs, ReversibleStack


class Calls(Protocol):
    """How a model's loop calls its layers, see `LayerView`."""

    @property
    def block_inputs(self) -> Callable[..., BlockInputs]:
        """Turns the arguments of a layer into a record."""

    @property
    def result(self) -> Callable[[Tensor], Any]:
        """Turns hidden states into what a layer returns."""


class StackLayer(nn.Module):
    """A reversible stack that a model's loop can call as it calls a layer.

    Args:
        stack: the reversible blocks.
        view: how the model's loop calls a layer.
        replaced: the layers in whose place it stands.
    """

    def __init__(self, stack: ReversibleStack, view: Calls, replaced: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stack = stack
        self.view = view
        self.replaced = tuple(replaced)  # no submodules: the stack's blocks have them

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Runs the stack.

        Args:
            hidden: (B, S, H).
            *args: what the model's loop gives a layer besides.
            **kwargs: likewise; keys and values are kept where no gradient is asked for, and by how many items a loss
                is divided is of no account here.

        Returns:
            (B, S, H), as the model's layers return it.

        Raises:
            UnsupportedInputError: an argument that the stack does not carry.
        """
        kwargs.pop("num_items_in_batch", None)
        cache = kwargs.get("past_key_values")
        if can_keep(cache):
            others = {name: value for name, value in kwargs.items() if name not in ("past_key_values", "use_cache")}
            with keeping(self.stack, cache):
                return self.view.result(self.stack(hidden, self.view.block_inputs(*args, **others)))
        return self.view.result(self.stack(hidden, self.view.block_inputs(*args, **kwargs)))

    def state_dict(self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Returns weights as `nn.Module.state_dict` does, those of the layers under the names that they had.

        The blocks hold a layer in several places, and a file of weights knows it by one name.
        """
        found = super().state_dict(keep_vars=keep_vars)
        destination = OrderedDict() if destination is None else destination
        before, _, own = prefix.rstrip(".").rpartition(".")
        first, places = int(own or 0), self.places()
        for name, value in found.items():
            place = next((place for place in places if name.startswith(place)), None)
            if place is None:
                destination[_joined(before, own, name)] = value
            else:
                destination[_joined(before, str(first + places[place]), name.removeprefix(place))] = value
        return destination

    def places(self) -> dict[str, int]:
        """Returns where the blocks hold the layers, by the beginning of the names there: which layer it is."""
        numbers = {id(layer): number for number, layer in enumerate(self.replaced)}
        modules = self.named_modules(remove_duplicate=False)
        return {f"{name}.": numbers[id(module)] for name, module in modules if id(module) in numbers}


class LayerList(nn.ModuleList):
    """A model's layers, of which a `StackLayer` may stand for several; weights are read by the layers' own names."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for own, layer in self.named_children():
            if isinstance(layer, StackLayer):
                _move_to_blocks(state_dict, prefix, int(own), layer)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _move_to_blocks(state_dict: dict[str, Any], prefix: str, first: int, layer: StackLayer) -> None:
    """Renames weights of layers to where a stack's blocks hold them, in place; others stay as they are."""
    places = layer.places()
    for number in range(len(layer.replaced)):
        old = f"{prefix}{first + number}."
        for name in [name for name in state_dict if name.startswith(old)]:
            rest = name.removeprefix(old)
            if number or not rest.startswith("stack."):
                value = state_dict.pop(name)
                for place in (place for place, held in places.items() if held == number):
                    state_dict[f"{prefix}{first}.{place}{rest}"] = value


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)
