"""A model of transformers, plain or prepared by peft, becomes reversible in one call."""

from typing import TypeVar, Unpack

from peft import PeftModel
from torch import nn

from meft_runner.api.arguments import MeftArguments, meft_settings, peft_settings
from meft_runner.api.making import add_adapters, couple
from meft_runner.api.mistakes import with_value_errors
from meft_runner.api.served import backbone_of, kind_of, settings_of_backbone
from meft_runner.config import METHODS, MeftSettings
from meft_runner.errors import UserError, nearest

_M = TypeVar("_M", bound=nn.Module)
MEFT = tuple(name for name, schema in METHODS.items() if schema is MeftSettings)


@with_value_errors
def make_reversible(model: _M, method: str | None = None, **settings: Unpack[MeftArguments]) -> _M:
    """Makes a model's layers reversible, in place: backward rebuilds activations instead of keeping them.

    A model that peft has prepared gets a delay coupling and is peft's as before; a plain one gets MEFT's adapters, and
    what trains is those and its head. Its mode stays as it is: models come from `from_pretrained` in evaluation mode,
    so a training loop calls `model.train()` as ever.

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
        couple(model, inner, family, peft_settings(kind_of(model), settings))
    else:
        if not isinstance(method, str) or method not in MEFT:
            raise UserError(_wrong_method(method))
        norm = settings_of_backbone(inner).norm.name
        add_adapters(inner, family, meft_settings(method, norm, settings))
    return model


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
