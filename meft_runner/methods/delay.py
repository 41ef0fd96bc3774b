"""The delay coupling: layers as a method of peft left them become reversible.

A layer F turns the streams (x1, x2), which start equal, into (x2, scale * x1 + mu * F(x2)). With mu = 1 - scale the
network is the pre-trained one, but for a part `scale` of what two layers change. F needs no second function to be
undone: what goes into x2's place is x2 itself.
"""

from collections.abc import Sequence
from fractions import Fraction

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from meft_runner.backbones import Family, LayerView
from meft_runner.config import BackboneSettings, PeftSettings
from meft_runner.errors import UserError
from meft_runner.methods.layers import WholeLayer, check_keeps_layers, stack_layers, stack_of
from meft_runner.reversible import Coupling, ReversibleBlock, ReversibleStack


def make_layers_reversible(
    prepared: PeftModel, model: PreTrainedModel, family: Family, backbone: BackboneSettings, method: PeftSettings
) -> None:
    """Couples a model's layers, in place.

    Args:
        prepared: as peft made it.
        model: the backbone inside it.
        family: its architecture.
        backbone: its settings.
        method: mode, scale and mu.

    Raises:
        UserError: the model or the method of peft does not work layer by layer.
    """
    check_keeps_layers(model, family, backbone, f"method.reversal={method.reversal.name}")
    for config in prepared.peft_config.values():
        if config.is_prompt_learning:
            raise UserError(
                f"method={method.name}: it adds tokens to a row, and a reversible layer returns as many as it gets. "
                "Take method.reversal=off, or a method that trains inside layers, such as lora."
            )
    ((scale, mu),) = method.halves
    coupling = Coupling(scale, Fraction(1), swap=True, merge=(0.0, 1.0), mu_1=mu)

    def stacked(view: LayerView, layers: Sequence[nn.Module], names: Sequence[str]) -> ReversibleStack:
        blocks = [
            ReversibleBlock(WholeLayer(view, layer), None, name) for layer, name in zip(layers, names, strict=True)
        ]
        return stack_of(blocks, coupling, method)

    stack_layers(model, family, 0, stacked)
