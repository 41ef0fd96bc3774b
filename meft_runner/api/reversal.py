"""A model of transformers, plain or prepared by peft, becomes reversible in one call."""

from typing import Any, TypeVar, Unpack

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from meft_runner.api.arguments import MeftArguments, meft_settings, peft_settings
from meft_runner.api.mistakes import with_value_errors
from meft_runner.api.served import backbone_of, settings_of_backbone
from meft_runner.backbones import Family
from meft_runner.backbones.weights import settle
from meft_runner.config import METHODS, MeftSettings
from meft_runner.errors import UserError, nearest
from meft_runner.methods.delay import make_layers_reversible
from meft_runner.methods.prepare import check_kernels, prepare
from meft_runner.methods.stored import check_stored, store_layers

_M = TypeVar("_M", bound=nn.Module)
MEFT = tuple(name for name, schema in METHODS.items() if schema is MeftSettings)
# Classes of transformers whose loss divides by `num_items_in_batch` where the Trainer gives it.
_COUNTING = ("ForCausalLM", "LMHeadModel", "ForImageClassification")


@with_value_errors
def make_reversible(model: _M, method: str | None = None, **settings: Unpack[MeftArguments]) -> _M:
    """Makes a model's layers reversible, in place: backward rebuilds activations instead of keeping them.

    A model that peft has prepared gets a delay coupling and is peft's as before; a plain one gets MEFT's adapters, and
    what trains is those and its head. Its mode stays as it is: models come from `from_pretrained` in evaluation mode.

    Args:
        model: of transformers, of a family that is served (BERT, RoBERTa, DeBERTa-v3, BART, OPT, ViT, DeiT, Llama,
            Mistral, Qwen2, Qwen3), or of peft around one.
        method: for a plain model `meft1`, `meft2`, `meft3`, or one of the presets that start where pre-training ended,
            `meft1_start`, `meft2_start` and `meft3_start`.
        **settings: the method's settings by their names, see `ReversalArguments` and `MeftArguments`. Those that are
            not given are as in a run of the method.

    Returns:
        The same model.

    Raises:
        ValueError: the model cannot be made reversible, or a setting does not fit.
    """
    inner, family = backbone_of(model)
    if isinstance(model, PeftModel):
        if method is not None:
            raise UserError(
                f"method={method}: peft has prepared this model, whose adapters train. Leave method out, or give a "
                "plain model."
            )
        _couple(model, inner, family, settings)
    else:
        _add_adapters(inner, family, method, settings)
    if getattr(inner.config, "use_cache", False):
        inner.config.use_cache = False  # keys and values are kept for generation only
    model.train(model.training)  # what is new as well
    return model


def _couple(model: PeftModel, inner: PreTrainedModel, family: Family, given: Any) -> None:
    """Ties the layers of a model that peft has prepared."""
    kinds = [str(getattr(each.peft_type, "value", each.peft_type)) for each in model.peft_config.values()]
    settings, backbone = peft_settings(kinds[0].lower(), given), settings_of_backbone(inner)
    check_kernels(settings)
    check_stored(_depth(inner, family), backbone, settings.stored_layers)
    family.finish_model(inner)
    make_layers_reversible(model, inner, family, backbone, settings)
    store_layers(model, settings.stored_layers)
    _count_loss(inner)


def _add_adapters(model: PreTrainedModel, family: Family, method: str | None, given: Any) -> None:
    """Freezes a plain model, and ties its layers with adapters beside them."""
    if not isinstance(method, str) or method not in MEFT:
        raise UserError(_wrong_method(method))
    backbone = settings_of_backbone(model)
    settings = meft_settings(method, backbone.norm.name, given)
    check_kernels(settings)
    check_stored(max(1, _depth(model, family) - settings.frozen_layers), backbone, settings.stored_layers)
    prepare(model, family, backbone, settings)
    settle(model)
    _train_other_heads(model)
    _count_loss(model)


def _depth(model: PreTrainedModel, family: Family) -> int:
    return sum(len(view.layers(model)) for view in family.views)


def _train_other_heads(model: PreTrainedModel) -> None:
    """Lets heads of a user's own train; a projection to the vocabulary stays as pre-training left it."""
    words = model.get_output_embeddings()
    for child in model.children():
        if model.base_model not in (child, model) and not any(module is words for module in child.modules()):
            child.requires_grad_(True)


def _count_loss(model: PreTrainedModel) -> None:
    """Tells the Trainer whether a model's loss divides by the tokens of all accumulated passes, when it is given them.

    It goes by the keywords of the forward pass, and takes losses for divided that are means of one pass.
    """
    attributes: Any = model  # torch types each of them as a tensor or a module
    attributes.accepts_loss_kwargs = type(model).__name__.endswith(_COUNTING)


def _wrong_method(method: object) -> str:
    known = ", ".join(MEFT)
    if method is None:
        return f"method: a plain model needs one of {known}; or prepare it by peft.get_peft_model first."
    if isinstance(method, str) and method in METHODS:
        return (
            f"method={method}: expected one of {known}. Methods of peft are prepared by peft.get_peft_model, and the "
            "model that it returns is made reversible without method=."
        )
    return f"method={method}: no such method, {nearest(str(method), MEFT)}expected one of {known}."
