"""MEFT1, MEFT2 and MEFT3: a backbone's layers become reversible blocks."""

from torch import Tensor, nn
from transformers import PreTrainedModel

from meft_runner.backbones import Family, LayerView, StackLayer, task_head
from meft_runner.config import BackboneSettings, MeftSettings
from meft_runner.errors import UserError
from meft_runner.methods.adapter import Adapter
from meft_runner.methods.variants import VARIANTS, Branch
from meft_runner.reversible import BlockInputs, Composed, Coupling, ReversibleBlock, ReversibleStack, TokenwiseModule


class AttentionBlock(nn.Module):
    """A layer's attention block, with an adapter after the output projection where one is given.

    Args:
        view: the layer as two functions.
        layer: the pre-trained layer.
        adapter: the adapter, or None.
    """

    def __init__(self, view: LayerView, layer: nn.Module, adapter: Adapter | None = None) -> None:
        super().__init__()
        self.view = view
        self.layer = layer
        self.adapter = adapter

    def forward(self, x: Tensor, inputs: BlockInputs) -> Tensor:
        """Returns the attention block's output, (B, S, H)."""
        return self.view.attention_block(self.layer, x, inputs, self.adapter)


class MlpBlock(TokenwiseModule):
    """A layer's MLP block with an adapter beside it.

    Args:
        view: the layer as two functions.
        layer: the pre-trained layer.
        adapter: the adapter.
    """

    def __init__(self, view: LayerView, layer: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.view = view
        self.layer = layer
        self.adapter = adapter

    def forward(self, x: Tensor, inputs: BlockInputs) -> Tensor:
        """Returns the MLP block's output, of the shape of x."""
        return self.view.mlp_block(self.layer, x, inputs, self.adapter)


def prepare_meft(
    model: PreTrainedModel, family: Family, backbone: BackboneSettings, method: MeftSettings
) -> PreTrainedModel:
    """Freezes the model and makes its layers reversible, in place.

    Raises:
        UserError: more layers are to stay frozen than the model can spare, or it leaves out layers at random.
    """
    depth = sum(len(view.layers(model)) for view in family.views)
    if method.frozen_layers >= depth:
        raise UserError(
            f"method.frozen_layers={method.frozen_layers}: {backbone.name} has {depth} layers and at least one "
            f"must be reversible. Take 0 to {depth - 1}."
        )
    for name in family.layer_drop:
        if getattr(model.config, name) > 0:
            raise UserError(
                f"method={method.name}: {backbone.name} has {name}={getattr(model.config, name)}, and a reversible "
                f"stack cannot leave out layers. Set {name} to 0 in the config.json of a local copy (backbone.path)."
            )
    model.requires_grad_(False)
    frozen = method.frozen_layers  # counted from the bottom of the first stack
    for view in family.views:
        layers = list(view.layers(model))
        plain, reversible = layers[:frozen], layers[frozen:]
        if reversible:
            blocks = _blocks(model, family, view, method, reversible, len(plain))
            stack = _stack(blocks, method)
            view.replace_layers(model, [*plain, StackLayer(stack, view.block_inputs)])
        frozen -= len(plain)
    for name in task_head(model):
        model.get_submodule(name).requires_grad_(True)
    return model


def reversible_stacks(model: nn.Module) -> list[ReversibleStack]:
    """Returns the reversible stacks inside a model."""
    return [module for module in model.modules() if isinstance(module, ReversibleStack)]


def _blocks(
    model: PreTrainedModel,
    family: Family,
    view: LayerView,
    method: MeftSettings,
    layers: list[nn.Module],
    first: int,
) -> list[ReversibleBlock]:
    """Returns a reversible block for each layer, named by its place in the model."""
    config, variant = model.config, VARIANTS[method.name]
    dropout = getattr(config, family.dropout) if method.adapter_dropout is None else method.adapter_dropout
    activation = getattr(config, family.activation)

    def adapter() -> Adapter:
        made = Adapter(config.hidden_size, method.adapter_dim, activation, dropout)
        return made.to(device=model.device, dtype=model.dtype)

    def branch(kind: Branch, layer: nn.Module) -> nn.Module:
        match kind:
            case Branch.layer:
                return Composed(AttentionBlock(view, layer), MlpBlock(view, layer, adapter()))
            case Branch.attention:
                return AttentionBlock(view, layer, adapter())
            case Branch.mlp:
                return MlpBlock(view, layer, adapter())
            case _:
                return adapter()

    def block(layer: nn.Module, name: str) -> ReversibleBlock:
        made = {kind: branch(kind, layer) for kind in Branch if kind in (variant.f, variant.g)}
        return ReversibleBlock(made[variant.f], made[variant.g], name)

    part = "" if len(family.views) == 1 else view.path.split(".")[0] + " "
    return [block(layer, f"{part}layer {index}") for index, layer in enumerate(layers, start=first)]


def _stack(blocks: list[ReversibleBlock], method: MeftSettings) -> ReversibleStack:
    scale_1, scale_2 = method.scales
    coupling = Coupling(scale_1, scale_2, VARIANTS[method.name].swap, merge=(method.merge[0], method.merge[1]))
    return ReversibleStack(blocks, coupling, method.reversal.name, method.grid_bits, method.chunks, method.strict)
