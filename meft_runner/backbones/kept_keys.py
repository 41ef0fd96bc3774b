"""Keys and values kept for generation by the attention layers inside a reversible stack."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeGuard

import torch
from torch import Tensor
from transformers import DynamicCache

from meft_runner.reversible import ReversibleStack

_CACHE: ContextVar[DynamicCache | None] = ContextVar("kept keys", default=None)


def can_keep(cache: object) -> TypeGuard[DynamicCache]:
    """Tells whether a stack's layers can keep keys and values in what the model's loop gives them.

    Not those of an encoder beside the decoder's own; and not where gradients are asked for, since a layer whose keys
    are kept would keep them again when it is computed again.
    """
    return isinstance(cache, DynamicCache) and not torch.is_grad_enabled()


@contextmanager
def keeping(stack: ReversibleStack, cache: DynamicCache) -> Iterator[None]:
    """Makes each attention layer of a stack read the keys and values of the tokens before, and add its own.

    They meet at the attention itself, so that the blocks between know nothing of them. A layer's entries are those of
    the whole batch, which is therefore not cut into chunks.
    """
    before = _CACHE.set(cache)
    chunks, stack.chunks = stack.chunks, 1
    try:
        yield
    finally:
        stack.chunks = chunks
        _CACHE.reset(before)


def with_kept(attention: Any, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Adds a layer's keys and values to those that are kept, while any are.

    Args:
        attention: a causal layer; another one reads what does not grow, and gets back what it gave.
        key: (B, heads, S, D).
        value: likewise.

    Returns:
        Keys and values of the tokens before and of these, (B, heads, T + S, D).
    """
    cache = _CACHE.get()
    if cache is None or not attention.is_causal:
        return key, value
    keys, values = cache.update(key, value, attention.layer_idx)
    return keys, values
