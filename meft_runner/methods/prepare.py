"""How a loaded backbone is made ready for training."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from meft_runner.backbones import Family
from meft_runner.backbones.answers import ScoresAnswers
from meft_runner.config import (
    BackboneSettings,
    FullSettings,
    MeftSettings,
    MethodSettings,
    PeftSettings,
    ReversibleSettings,
)
from meft_runner.config.methods import KernelForm
from meft_runner.errors import UserError
from meft_runner.methods.adapter import Adapter
from meft_runner.methods.full import prepare_full
from meft_runner.methods.layers import reversible_stacks
from meft_runner.methods.meft import prepare_meft
from meft_runner.methods.peft_methods import FIRST_FACTORS, prepare_peft
from meft_runner.methods.stored import check_stored, reversible_layers, store_layers
from meft_runner.reversible.kernels import hindrance

_PREPARE: dict[type[MethodSettings], Callable[[PreTrainedModel, Family, BackboneSettings, Any], nn.Module]] = {
    FullSettings: prepare_full,
    PeftSettings: prepare_peft,
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
    family.finish_model(model)
    # The Trainer divides a loss by the accumulated passes unless the model says that it does so itself; those of
    # transformers accept any keyword and would be mistaken for models that do.
    attributes: Any = model  # torch types each of them as a tensor or a module
    attributes.accepts_loss_kwargs = isinstance(model, ScoresAnswers)
    kind = next(kind for kind in type(method).__mro__ if kind in _PREPARE)
    prepared = _PREPARE[kind](model, family, backbone, method)
    if isinstance(method, ReversibleSettings) and method.reverses:
        stored = method.stored_layers if method.budget is None else 0
        check_stored(reversible_layers(prepared), backbone, stored)
        store_layers(prepared, stored)
    return prepared


def check_kernels(method: MethodSettings, device: torch.device) -> None:
    """Makes sure that a device can run the kernels that are asked for.

    Raises:
        UserError: it cannot.
    """
    problem = hindrance(device) if getattr(method, "kernels", None) is KernelForm.fused else None
    if problem is not None:
        raise UserError(f"method.kernels=fused: {problem}. Take method.kernels=auto; the results are the same.")


def may_start_without_gradient(model: nn.Module) -> set[str]:
    """Returns the names of parameters whose first gradient may be zero by design.

    Where a second factor starts at zero (LoRA, VeRA, an adapter with `zero_start`), nothing reaches the first one in
    the first step, nor what the output reads through it alone. Learned merge weights start at the output stream, which
    the last G may not reach. The keys' bias moves all scores of a query alike, which the softmax cancels: only
    rounding is left.
    """
    waiting = _first_factors(model)
    for stack in reversible_stacks(model):
        last, coupling = stack.plan.blocks[-1], stack.coupling
        if stack.learned_merge is not None and last.g is not None:
            waiting |= {id(parameter) for parameter in last.g.parameters()}
        elif isinstance(last.g, Adapter) and last.g.waiting() and coupling.merge[1 if coupling.swap else 0] == 0:
            waiting |= {id(p) for p in stack.parameters()} - {id(p) for p in last.g.up.parameters()}
    parts = (*FIRST_FACTORS, "key.bias", "k_proj.bias", "key_proj.bias")
    return {
        name for name, parameter in model.named_parameters()
        if id(parameter) in waiting or any(part in name for part in parts)
    }  # fmt: skip


def _first_factors(model: nn.Module) -> set[int]:
    """Returns the ids of the parameters before an adapter's second matrix, where that is zero."""
    return {id(p) for adapter in model.modules() if isinstance(adapter, Adapter) for p in adapter.waiting()}
