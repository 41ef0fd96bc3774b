"""How a loaded backbone is made ready for training."""

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from meft_runner.backbones import Family
from meft_runner.config import BackboneSettings, FullSettings, Ia3Settings, LoraSettings, MeftSettings, MethodSettings
from meft_runner.methods.baselines import prepare_full, prepare_ia3, prepare_lora
from meft_runner.methods.meft import prepare_meft

_PREPARE: dict[type[MethodSettings], Callable[[PreTrainedModel, Family, BackboneSettings, Any], nn.Module]] = {
    FullSettings: prepare_full,
    LoraSettings: prepare_lora,
    Ia3Settings: prepare_ia3,
    MeftSettings: prepare_meft,
}


def prepare(model: PreTrainedModel, family: Family, backbone: BackboneSettings, method: MethodSettings) -> nn.Module:
    """Makes a backbone with its task head ready for training.

    Args:
        model: as it was loaded; it is changed.
        family: its architecture.
        backbone: its settings.
        method: the fine-tuning method.

    Returns:
        The model, or a peft model around it; what trains requires gradient, the rest does not.

    Raises:
        UserError: the method does not fit the model.
    """
    # The Trainer divides a loss by the accumulated passes unless the model says that it does so itself; ours
    # accept any keyword and would be mistaken for models that do.
    attributes: Any = model  # torch types each of them as a tensor or a module
    attributes.accepts_loss_kwargs = False
    return _PREPARE[type(method)](model, family, backbone, method)


def may_start_without_gradient(name: str) -> bool:
    """Tells whether a parameter's first gradient may be zero by design.

    LoRA starts its second matrix at zero, so nothing reaches the first one in the first step. The keys'
    bias moves all scores of a query alike, which the softmax cancels: only rounding is left.
    """
    return "lora_A" in name or name.endswith(("key.bias", "k_proj.bias"))
