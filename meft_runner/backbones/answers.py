"""Causal language models that are trained on labelled tokens and score them, and never make a (B, S, V) tensor."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import LinearCrossEntropyOptions
from torch.nn import functional as F
from transformers import Cache, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput

IGNORED = -100  # the label of a position that is not learned
# results/loss has what these rest on. Tokens whose logits exist at once: of more, an H100 would wait for arithmetic and
# not for the weight, so that they only take memory; a CPU is as fast with 64.
_CHUNK = 256
_FEW = 64  # tokens that are projected as they are in half precision: as fast or faster, since nothing is computed again
# What some families do to a head's projection before it is called logits, a factor or a bound; none is done here.
_CHANGED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")


@dataclass
class AnswerOutput(ModelOutput):
    """What the model returns.

    Attributes:
        loss: negative log-likelihood of the labelled tokens, a scalar, float32; their mean, or their sum divided by
            `num_items_in_batch`.
        log_likelihoods: (B,), float32, summed over each row's labelled tokens. This and what follows is computed
            where no gradient is asked for.
        tokens: (B,), how many tokens of a row are labelled.
        correct: (B,), how many of them the model holds for the likeliest.
    """

    loss: Tensor | None = None
    log_likelihoods: Tensor | None = None
    tokens: Tensor | None = None
    correct: Tensor | None = None


class ScoresAnswers:
    """Goes before a causal language model of transformers, whose vocabulary is then computed for few tokens at a time.

    The usual logits, (B, S, V), are the largest tensor of a training step: 1 GB at one row of 2,048 tokens with
    Llama 3's V = 128,256, as much again in float32, and as much again for each gradient.

    Args:
        config: the model's configuration.

    Raises:
        ValueError: the model changes its head's projection before it calls that logits.
    """

    base_model: Any
    get_output_embeddings: Callable[[], Any]
    accepts_loss_kwargs = True  # the Trainer gives `num_items_in_batch`: gradients that add up are those of one batch

    def __init__(self, config: PreTrainedConfig) -> None:
        for name in _CHANGED_LOGITS:
            if getattr(config, name, None) not in (None, 1):
                raise ValueError(f"{config.model_type}: the loss does not know {name}={getattr(config, name)}")
        super().__init__(config)  # type: ignore[call-arg]  # of the causal model that it goes before
        self.loss_type = "ForCausalLM"  # tells the Trainer that a row's first token is predicted by nothing

    @classmethod
    def from_config(cls, config: PreTrainedConfig, **kwargs: Any) -> PreTrainedModel:
        """Returns a model of random weights, by the name that transformers' Auto classes have for it."""
        made: PreTrainedModel = cls._from_config(config, **kwargs)  # type: ignore[attr-defined]  # of the causal model
        return made

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 1,
        return_dict: bool = True,
    ) -> AnswerOutput | CausalLMOutputWithPast:
        """Scores labelled tokens; without labels, predicts the next token of each row.

        Args:
            input_ids: (B, S).
            attention_mask: (B, S), 0 at padding.
            labels: (B, S), the token itself where it is learned, -100 elsewhere.
            position_ids: (B, S), where they are not those of one text a row.
            num_items_in_batch: the labelled tokens of all passes that make one optimizer step; their mean is the loss.
            past_key_values: keys and values of the tokens before; this and what follows is for generation.
            use_cache: whether those of these tokens are kept.
            logits_to_keep: for how many positions at a row's end there are logits.
            return_dict: whether these come by name.

        Returns:
            The loss, and each row's scores where no gradient is asked for; without labels the causal model's output.
        """
        if labels is None:
            return super().forward(  # type: ignore[misc]  # of the causal model
                input_ids, attention_mask=attention_mask, position_ids=position_ids, past_key_values=past_key_values,
                use_cache=use_cache, logits_to_keep=logits_to_keep, return_dict=return_dict,
            )  # fmt: skip
        states = self.base_model(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state.flatten(0, 1)
        targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED)  # what the state at a position predicts
        labelled = (targets.flatten() != IGNORED).nonzero().squeeze(1)
        items = len(labelled) if num_items_in_batch is None else num_items_in_batch
        if torch.is_grad_enabled():
            return AnswerOutput(_loss(self.get_output_embeddings(), states, targets.flatten(), labelled) / items)
        scores = _scores(self.get_output_embeddings(), states, targets, labelled)
        return AnswerOutput(-scores[0].sum() / items, *scores)


def for_answers(causal: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Returns a causal language model's class as one that is trained on labelled tokens and scores them."""
    return type(causal.__name__.replace("ForCausalLM", "ForAnswers"), (ScoresAnswers, causal), {})


def _loss(head: nn.Linear, states: Tensor, targets: Tensor, labelled: Tensor) -> Tensor:
    """Returns the summed negative log-likelihood of labelled tokens, float32.

    Args:
        head: the projection to the vocabulary.
        states: (N, H), at every position.
        targets: (N,), the token that a state predicts, -100 where none is learned.
        labelled: (L,), the positions where one is.
    """
    if 2 * len(labelled) <= len(targets):  # a copy of so few saves half of the products at the least
        states, targets = states.index_select(0, labelled), targets.index_select(0, labelled)
    device = states.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.weight.dtype
    if dtype != torch.float32 and len(labelled) <= _FEW:
        return F.cross_entropy(head(states).float(), targets, ignore_index=IGNORED, reduction="sum")
    # With "sum" the gradients are made together with the loss, which saves a product of matrices. But that sum is in
    # the dtype of the states: in bfloat16 it was 3 % off, in float16 it overflows at some 7,000 tokens.
    losses = F.linear_cross_entropy(
        states.to(dtype), head.weight.to(dtype), targets,
        linear_bias=None if head.bias is None else head.bias.to(dtype),
        ignore_index=IGNORED, reduction="sum" if dtype == torch.float32 else "none",
        options=LinearCrossEntropyOptions(batch_chunk_size=_CHUNK),
    )  # fmt: skip
    return losses.float().sum()


def _scores(head: nn.Module, states: Tensor, targets: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns each row's log-likelihood, its number of labelled tokens, and how many of them are found.

    Args:
        head: the projection to the vocabulary.
        states: (B * S, H), at every position.
        targets: (B, S), the token that a state predicts, -100 where none is learned.
        labelled: (L,), the positions where one is, of B * S.
    """
    rows, length = targets.shape
    log_likelihoods = torch.zeros(rows, device=states.device)
    correct = torch.zeros(rows, dtype=torch.long, device=states.device)
    for some in labelled.split(_CHUNK):
        logits, expected, row = head(states[some]).float(), targets.flatten()[some], some // length
        log_likelihoods.index_add_(0, row, F.cross_entropy(logits, expected, reduction="none"), alpha=-1)
        correct.index_add_(0, row, (logits.argmax(1) == expected).long())
    return log_likelihoods, (targets != IGNORED).sum(1), correct
