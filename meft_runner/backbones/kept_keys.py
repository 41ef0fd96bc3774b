"""Keys and values kept for generation by the attention layers inside a reversible stack."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import nn
from transformers import DynamicCache

from meft_runner.reversible import ReversibleStack


def can_keep(cache: object) -> TypeGuard[DynamicCache]:
    """Tells whether a stack's layers can keep keys and values in what the model's loop gives them.

    Not those of an encoder beside the decoder's own; and not where gradients are asked for, since a layer whose keys
    are kept would keep them again when it is computed again.
    """
    return isinstance(cache, DynamicCache) and not torch.is_grad_enabled()


@contextmanager
def keeping(stack: ReversibleStack, cache: DynamicCache) -> Iterator[None]:
    """Makes each attention layer of a stack read the keys and values of the tokens before, and add its own.

    They are handed over at the attention layer itself, so that the blocks between know nothing of them. A layer's
    entries are those of the whole batch, which is therefore not cut into chunks.
    """

    def handed_over(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "past_key_values": cache}

    attentions = [module for module in stack.modules() if hasattr(module, "layer_idx")]  # its place in the cache
    hooks = [module.register_forward_pre_hook(handed_over, with_kwargs=True) for module in attentions]
    chunks, stack.chunks = stack.chunks, 1
    try:
        yield
    finally:
        stack.chunks = chunks
        for hook in hooks:
            hook.remove()
