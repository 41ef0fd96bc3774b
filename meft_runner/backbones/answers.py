"""Causal language models that are trained on answers and score them, and never make a (B, S, V) tensor."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

IGNORED = -100  # the label of a position that is no part of an answer


@dataclass
class AnswerOutput(ModelOutput):
    """What the model returns.

    Attributes:
        loss: mean negative log-likelihood of the answers' tokens, a scalar.
        log_likelihoods: (B,), summed over each row's answer.
    """

    loss: Tensor | None = None
    log_likelihoods: Tensor | None = None


class ScoresAnswers:
    """Goes before a causal language model of transformers, whose vocabulary is then computed at answers only.

    The logits of N answer tokens are (N, V), where the usual (B, S, V) is the largest tensor of a
    training step: 206 MB at 8 x 128 with OPT's V = 50,272, and as much again for its gradient.
    """

    base_model: Any
    get_output_embeddings: Callable[[], Any]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> AnswerOutput:
        """Scores the answers.

        Args:
            input_ids: (B, S), prompts with their answers.
            attention_mask: (B, S), 0 at padding.
            labels: (B, S), the token at positions of an answer, -100 elsewhere.

        Returns:
            The loss and each row's log-likelihood.
        """
        assert labels is not None
        hidden = self.base_model(input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        answers = labels[:, 1:] != IGNORED  # the state before a token predicts it
        logits = self.get_output_embeddings()(hidden[:, :-1][answers])
        losses = cross_entropy(logits.float(), labels[:, 1:][answers], reduction="none")
        rows = torch.zeros(labels.shape[0], device=losses.device)
        return AnswerOutput(losses.mean(), rows.index_add(0, answers.nonzero()[:, 0], -losses))


def for_answers(causal: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Returns a causal language model's class as one that is trained on answers and scores them."""
    return type(causal.__name__.replace("ForCausalLM", "ForAnswers"), (ScoresAnswers, causal), {})
