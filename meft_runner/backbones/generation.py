"""Greedy generation with a causal model, plain or prepared for training."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedTokenizerBase, TextStreamer

from meft_runner.backbones.family import inner_model


@torch.no_grad()
def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int = 8,
    ends: Collection[int] = (),
    advance: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """Continues prompts by the likeliest token each time; keys and values of earlier tokens are kept.

    Args:
        model: one of `for_answers`, or peft's around it. It is as it was afterwards.
        tokenizer: the model's; its `model_max_length` is what the model reads, prompt and continuation together.
        prompts: token ids.
        max_new_tokens: after which a continuation ends in any case.
        batch_size: prompts that are continued at once.
        ends: tokens that end a continuation, besides the tokenizer's and the model's own.
        advance: is told how many prompts have been continued since it was last told.

    Returns:
        The continuations as texts, without special tokens.
    """
    inner = inner_model(model)

    def room(place: int) -> int:
        return max(0, min(max_new_tokens, tokenizer.model_max_length - len(prompts[place])))

    found: dict[int, list[int]] = {}
    with _greedy(inner, tokenizer, ends) as all_ends:
        # Prompts of about one length go together; those with less room than others by themselves.
        for new_tokens, group in groupby(sorted(range(len(prompts)), key=lambda place: len(prompts[place])), room):
            places = list(group)
            for start in range(0, len(places), batch_size):
                some = places[start : start + batch_size]
                continued = _continue(inner, [prompts[place] for place in some], new_tokens, all_ends)
                found |= zip(some, continued, strict=True)
                advance(len(some))
    return tokenizer.batch_decode([found[place] for place in range(len(prompts))], skip_special_tokens=True)


@torch.no_grad()
def stream(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    max_new_tokens: int,
    ends: Collection[int] = (),
) -> None:
    """Continues one prompt as `generate` does, and prints each word as soon as it is whole."""
    inner = inner_model(model)
    new_tokens = min(max_new_tokens, tokenizer.model_max_length - len(prompt))
    with _greedy(inner, tokenizer, ends) as all_ends:
        ids = torch.tensor([list(prompt)], device=inner.device)
        shown = _Words(tokenizer, all_ends)
        inner.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, streamer=shown)


class _Words(TextStreamer):
    """Prints what follows a prompt up to one of the tokens that end it."""

    def __init__(self, tokenizer: Any, ends: set[int]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.ends = ends

    def put(self, value: Tensor) -> None:
        """Takes the prompt, (1, S), and then a token at a time, (1,)."""
        if value.numel() > 1 or int(value) not in self.ends or self.next_tokens_are_prompt:
            super().put(value)


def _continue(model: Any, prompts: list[Sequence[int]], new_tokens: int, ends: set[int]) -> list[list[int]]:
    """Returns a batch's continuations without what ends them."""
    if not new_tokens:
        return [[] for _ in prompts]
    rows = [torch.tensor(prompt, device=model.device) for prompt in prompts]
    padding = model.generation_config.pad_token_id
    ids = pad_sequence(rows, batch_first=True, padding_value=padding, padding_side="left")
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
    continued = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=new_tokens)
    return [list(takewhile(lambda token: token not in ends, row)) for row in continued[:, ids.shape[1] :].tolist()]


@contextmanager
def _greedy(model: Any, tokenizer: PreTrainedTokenizerBase, ends: Collection[int]) -> Iterator[set[int]]:
    """Puts a model into evaluation mode and makes its generation greedy, whatever its folder says of sampling.

    Yields:
        All tokens that end a continuation.
    """
    training, usual = model.training, model.generation_config
    own = usual.eos_token_id
    all_ends = {*ends, *(own if isinstance(own, list) else [own]), tokenizer.eos_token_id} - {None}
    model.generation_config = GenerationConfig(
        do_sample=False,
        use_cache=True,
        eos_token_id=sorted(all_ends) or None,
        pad_token_id=model.config.pad_token_id or 0,
    )
    model.eval()
    try:
        yield all_ends
    finally:
        model.train(training)
        model.generation_config = usual
