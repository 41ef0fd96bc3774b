"""How a loaded backbone is made ready for training."""

from torch import nn
from transformers import PreTrainedModel

from meft_runner.backbones import Family, task_head
from meft_runner.config import BackboneSettings, FullSettings, Ia3Settings, LoraSettings, MeftSettings, MethodSettings
from meft_runner.methods import meft
from meft_runner.methods.baselines import prepare_full, prepare_ia3, prepare_lora


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
    model.accepts_loss_kwargs = False  # type: ignore[assignment]
    prepared: nn.Module
    match method:
        case MeftSettings():
            prepared = meft.prepare(model, family, backbone, method)
            for name in task_head(model):
                model.get_submodule(name).requires_grad_(True)
        case LoraSettings():
            prepared = prepare_lora(model, family, method)
        case Ia3Settings():
            prepared = prepare_ia3(model, family, method)
        case FullSettings():
            prepared = prepare_full(model, family, method)
        case _:
            raise TypeError(f"no method for {type(method).__name__}")
    return prepared


def may_start_without_gradient(name: str) -> bool:
    """Tells whether a parameter's first gradient may be zero by design.

    LoRA starts its second matrix at zero, so nothing reaches the first one in the first step. The keys'
    bias moves all scores of a query alike, which the softmax cancels: only rounding is left.
    """
    return "lora_A" in name or name.endswith(("key.bias", "k_proj.bias"))
