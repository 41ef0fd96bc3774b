"""MEFT1, MEFT2 and MEFT3: a backbone's layers become reversible blocks."""

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from meft_runner.backbones import Family, LayerView, task_head
from meft_runner.config import BackboneSettings, MeftSettings
from meft_runner.errors import UserError
from meft_runner.methods.adapter import Adapter
from meft_runner.methods.layers import AttentionBlock, MlpBlock, WholeLayer, check_keeps_layers, stack_layers, stack_of
from meft_runner.methods.variants import Branch, variant_of
from meft_runner.reversible import Coupling, ReversibleBlock, ReversibleStack


def prepare_meft(
    model: PreTrainedModel, family: Family, backbone: BackboneSettings, method: MeftSettings
) -> PreTrainedModel:
    """Freezes the model and makes its layers reversible, in place.

    Raises:
        UserError: more layers are to stay frozen than the model can spare, or it leaves out layers at random.
    """
    depth = family.depth(model)
    if method.frozen_layers >= depth:
        raise UserError(
            f"method.frozen_layers={method.frozen_layers}: {backbone.name} has {depth} layers and at least one "
            f"must be reversible. Take 0 to {depth - 1}."
        )
    check_keeps_layers(model, family, backbone, f"method={method.name}")
    model.requires_grad_(False)

    def stacked(view: LayerView, layers: Sequence[nn.Module], names: Sequence[str]) -> ReversibleStack:
        blocks = [_block(model, family, view, method, *each) for each in zip(layers, names, strict=True)]
        coupling = _coupling(method)
        _leave_out_what_cannot_learn(blocks[-1], coupling, method)
        return stack_of(blocks, coupling, method, learn_merge=method.merge_weights is None).to(model.device)

    stack_layers(model, family, method.frozen_layers, stacked)
    for name in task_head(model):
        model.get_submodule(name).requires_grad_(True)
    return model


def _block(
    model: PreTrainedModel, family: Family, view: LayerView, method: MeftSettings, layer: nn.Module, name: str
) -> ReversibleBlock:
    """Returns the reversible block of a layer."""
    config, variant = model.config, variant_of(method)
    dropout = getattr(config, family.dropout) if method.adapter_dropout is None else method.adapter_dropout
    activation = getattr(config, family.activation)

    def adapter() -> Adapter:
        made = Adapter(
            config.hidden_size, method.adapter_dim, activation, dropout, method.adapter_factor, method.zero_start
        )
        return made.to(model.device)  # float32, in whichever form the frozen weights are

    def branch(kind: Branch) -> nn.Module:
        match kind:
            case Branch.layer:
                return WholeLayer(view, layer, adapter())
            case Branch.attention:
                return AttentionBlock(view, layer, adapter())
            case Branch.mlp:
                return MlpBlock(view, layer, adapter())
            case _:
                return adapter()

    made = {kind: branch(kind) for kind in Branch if kind in (variant.f, variant.g)}
    return ReversibleBlock(made[variant.f], made[variant.g], name)


def _coupling(method: MeftSettings) -> Coupling:
    variant = variant_of(method)
    (scale_1, mu_1), (scale_2, mu_2) = method.halves
    return Coupling(scale_1, scale_2, variant.swap, method.merge_weights or variant.output, mu_1, mu_2)


def _leave_out_what_cannot_learn(last: ReversibleBlock, coupling: Coupling, method: MeftSettings) -> None:
    """Takes G out of the last block where the merged output does not read what it is added to."""
    weight = coupling.merge[0 if coupling.swap else 1]
    if method.merge_weights is not None and weight == 0:
        last.g = None
