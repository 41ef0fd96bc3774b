"""MEFT1, MEFT2 and MEFT3: a backbone's layers become reversible blocks."""

from torch import Tensor, nn
from transformers import PreTrainedModel

from meft_runner.backbones import Family, StackLayer
from meft_runner.checks import effective_merge, parse_scale
from meft_runner.errors import UserError
from meft_runner.methods.adapter import Adapter
from meft_runner.reversible import BlockInputs, Coupling, ReversibleBlock, ReversibleStack
from meft_runner.settings import BackboneSettings, MeftSettings


class LayerWithAdapter(nn.Module):
    """A whole layer with an adapter beside its MLP.

    Args:
        family: the view of the layer.
        layer: the pre-trained layer.
        adapter: the adapter.
    """

    def __init__(self, family: Family, layer: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.family = family
        self.layer = layer
        self.adapter = adapter

    def forward(self, x: Tensor, inputs: BlockInputs) -> Tensor:
        """Returns the layer's output, (B, S, H)."""
        attended = self.family.attention_block(self.layer, x, inputs, None)
        return self.family.mlp_block(self.layer, attended, inputs, self.adapter)


class AttentionWithAdapter(LayerWithAdapter):
    """A layer's attention block with an adapter after the output projection."""

    def forward(self, x: Tensor, inputs: BlockInputs) -> Tensor:
        """Returns the attention block's output, (B, S, H)."""
        return self.family.attention_block(self.layer, x, inputs, self.adapter)


class MlpWithAdapter(LayerWithAdapter):
    """A layer's MLP block with an adapter beside it."""

    def forward(self, x: Tensor, inputs: BlockInputs) -> Tensor:
        """Returns the MLP block's output, (B, S, H)."""
        return self.family.mlp_block(self.layer, x, inputs, self.adapter)


def prepare(
    model: PreTrainedModel, family: Family, backbone: BackboneSettings, method: MeftSettings
) -> PreTrainedModel:
    """Freezes the model and makes its layers reversible, in place.

    Raises:
        UserError: more layers are to stay frozen than the model can spare.
    """
    layers = list(family.layer_list(model))
    if method.frozen_layers >= len(layers):
        raise UserError(
            f"method.frozen_layers={method.frozen_layers}: {backbone.name} has {len(layers)} layers and at least one "
            f"must be reversible. Take 0 to {len(layers) - 1}."
        )
    model.requires_grad_(False)
    plain, reversible = layers[: method.frozen_layers], layers[method.frozen_layers :]
    blocks = [
        _block(model, family, method, layer, f"layer {index}")
        for index, layer in enumerate(reversible, start=method.frozen_layers)
    ]
    stack = ReversibleStack(
        blocks, _coupling(backbone, method), method.reversal.name, method.grid_bits, method.chunks, method.strict
    )
    family.replace_layers(model, [*plain, StackLayer(stack, family.block_inputs)])
    return model


def reversible_stacks(model: nn.Module) -> list[ReversibleStack]:
    """Returns the reversible stacks inside a model."""
    return [module for module in model.modules() if isinstance(module, ReversibleStack)]


def _block(
    model: PreTrainedModel, family: Family, method: MeftSettings, layer: nn.Module, name: str
) -> ReversibleBlock:
    def adapter() -> Adapter:
        config = model.config
        dropout = config.hidden_dropout_prob if method.adapter_dropout is None else method.adapter_dropout
        return Adapter(config.hidden_size, method.adapter_dim, config.hidden_act, dropout).to(
            device=model.device, dtype=model.dtype
        )

    if method.name == "meft1":
        return ReversibleBlock(LayerWithAdapter(family, layer, adapter()), adapter(), name)
    if method.name == "meft2":
        return ReversibleBlock(adapter(), LayerWithAdapter(family, layer, adapter()), name)
    # F and G of MEFT3 share the layer's module; each runs its own half of it.
    return ReversibleBlock(
        AttentionWithAdapter(family, layer, adapter()), MlpWithAdapter(family, layer, adapter()), name
    )


def _coupling(backbone: BackboneSettings, method: MeftSettings) -> Coupling:
    merge = effective_merge(backbone, method)
    return Coupling(
        scale_1=parse_scale("method.scale_1", method.scale_1),
        scale_2=parse_scale("method.scale_2", method.scale_2),
        swap=method.name != "meft3",
        merge=(merge[0], merge[1]),
    )
