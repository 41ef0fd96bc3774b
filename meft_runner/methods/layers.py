"""A pre-trained layer as the functions of a reversible block, and a model's layers exchanged for a stack of blocks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from meft_runner.backbones import Family, LayerView, StackLayer, UnsupportedInputError
from meft_runner.config import BackboneSettings, MeftSettings, PeftSettings
from meft_runner.errors import UserError
from meft_runner.reversible import BlockInputs, Coupling, ReversibleBlock, ReversibleStack, Stage, TokenwiseModule


class _Part(nn.Module):
    """A part of a layer, with an adapter where one is given.

    Args:
        view: how the layer runs as stages.
        layer: the pre-trained layer.
        adapter: the adapter, or None.
    """

    def __init__(self, view: LayerView, layer: nn.Module, adapter: nn.Module | None = None) -> None:
        super().__init__()
        self.view = view
        self.layer = layer
        self.adapter = adapter


class AttentionBlock(_Part):
    """A layer's attention block, whose adapter stands after the output projection."""

    def stages(self) -> tuple[Stage, ...]:
        """Returns its stages; the last one returns the attention block's output, (B, S, H)."""
        first = (Stage(partial(each.run, self.layer), each.tokenwise, self.layer) for each in self.view.attention)
        return (*first, Stage(self.end, True, self))

    def end(self, x: Tensor, *tensors: Any) -> Tensor:
        """Returns the attention block's output, (B, S, H), of what the stage before the last one returned."""
        *carried, _ = tensors
        return self.view.attention_end(self.layer, x, *carried, self.adapter)


class MlpBlock(_Part, TokenwiseModule):
    """A layer's MLP block, whose adapter stands beside it."""

    def forward(self, x: Tensor, inputs: BlockInputs) -> Tensor:
        """Returns the MLP block's output, of the shape of x."""
        return self.view.mlp_block(self.layer, x, self.adapter)


class WholeLayer(nn.Module):
    """A layer, with an adapter beside its MLP where one is given.

    Args:
        view: how the layer runs as stages.
        layer: the pre-trained layer.
        mlp_adapter: the adapter, or None.
    """

    def __init__(self, view: LayerView, layer: nn.Module, mlp_adapter: nn.Module | None = None) -> None:
        super().__init__()
        self.first = AttentionBlock(view, layer)
        self.second = MlpBlock(view, layer, mlp_adapter)

    def stages(self) -> tuple[Stage, ...]:
        """Returns its stages; the last one is all that follows the attention kernel."""
        return (*self.first.stages()[:-1], Stage(self.end, True, self))

    def end(self, x: Tensor, *tensors: Any) -> Tensor:
        """Returns the layer's output, (B, S, H), of what the stage before the last one returned."""
        return self.second(self.first.end(x, *tensors), BlockInputs())


def check_keeps_layers(model: PreTrainedModel, family: Family, backbone: BackboneSettings, method: str) -> None:
    """Makes sure that a model runs all its layers in every pass, each on what the one before returned, with one mask.

    Raises:
        UserError: it leaves out layers at random, computes something between two of them, or has several masks.
    """
    for name in family.layer_drop:
        if getattr(model.config, name) > 0:
            raise UserError(
                f"{method}: {backbone.name} has {name}={getattr(model.config, name)}, and a reversible "
                f"stack cannot leave out layers. Set {name} to 0 in the config.json of a local copy (backbone.path)."
            )
    for name in family.between_layers:
        if (size := getattr(model.config, name, 0)) > 0:
            raise UserError(
                f"{method}: {backbone.name} has {name}={size}, a computation between its layers, for which a "
                "reversible stack has no place. Take method=lora without reversal, or another backbone."
            )
    kinds = dict.fromkeys(getattr(model.config, "layer_types", None) or ())
    if len(kinds) > 1:
        raise UserError(
            f"{method}: {backbone.name} has layers of {' and '.join(kinds)} (layer_types in its config.json), which "
            "read different masks, and a reversible stack has one. Take method=full, or lora without reversal."
        )


def stack_of(
    blocks: Sequence[ReversibleBlock],
    coupling: Coupling,
    method: MeftSettings | PeftSettings,
    learn_merge: bool = False,
) -> ReversibleStack:
    """Returns a stack of blocks that is reversed as a method's settings say."""
    return ReversibleStack(
        blocks, coupling, method.reversal.name, method.grid_bits, method.chunks, method.strict,
        learn_merge=learn_merge, offload=method.offload, kernels=method.kernels.name,
    )  # fmt: skip


def stack_layers(
    model: PreTrainedModel,
    family: Family,
    frozen: int,
    stacked: Callable[[LayerView, Sequence[nn.Module], Sequence[str]], ReversibleStack],
) -> None:
    """Exchanges a model's layers for reversible stacks, in place.

    Args:
        model: the backbone.
        family: its architecture.
        frozen: layers that stay plain, counted from the bottom of the first of its layer lists.
        stacked: makes a stack of layers, given how to run them, and their names for errors.
    """
    for view in family.views:
        layers = list(view.layers(model))
        plain, reversible = layers[:frozen], layers[frozen:]
        if reversible:
            part = "" if len(family.views) == 1 else view.path.split(".")[0] + " "
            names = [f"{part}layer {index}" for index in range(len(plain), len(layers))]
            stack = stacked(view, reversible, names)
            view.replace_layers(model, [*plain, StackLayer(stack, view, reversible)])
        frozen -= len(plain)
    owners = (model.base_model.get_submodule(view.path.rpartition(".")[0]) for view in family.views)
    for module in dict.fromkeys([model.base_model, *owners]):
        if isinstance(module, PreTrainedModel):  # OPT's head calls the decoder inside the base model
            module.register_forward_pre_hook(_refuse_recording, with_kwargs=True)


def _refuse_recording(model: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuses to return what each layer made, which transformers reads off layers that no longer run by themselves."""
    for name in ("output_hidden_states", "output_attentions"):
        asked = kwargs.get(name)
        if getattr(model.config, name, False) if asked is None else asked is not False:
            raise UnsupportedInputError(f"{name}: the layers are reversible and keep nothing of each. Leave it out.")


def reversible_stacks(model: nn.Module) -> list[ReversibleStack]:
    """Returns the reversible stacks inside a model."""
    return [module for module in model.modules() if isinstance(module, ReversibleStack)]


@contextmanager
def plain_layers(model: nn.Module) -> Iterator[None]:
    """Gives a model its own layers back for a while, under their own names and run one after the other.

    They are those that the stacks run, as a method of peft left them and as training changed them; what stands beside
    them in the blocks, such as MEFT's adapters, is left out.
    """
    lists = {
        name: module for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and any(isinstance(layer, StackLayer) for layer in module)
    }  # fmt: skip
    try:
        for name, stacked in lists.items():
            parts = ([layer] if not isinstance(layer, StackLayer) else layer.replaced for layer in stacked)
            model.set_submodule(name, nn.ModuleList(layer for part in parts for layer in part))
        yield
    finally:
        for name, stacked in lists.items():
            model.set_submodule(name, stacked)
