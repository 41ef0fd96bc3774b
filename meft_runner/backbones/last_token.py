"""Causal models that classify texts by the state of a row's last token, wherever padding stands."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutputWithPast


class ReadsLastToken:
    """Goes before a sequence classifier of transformers, whose forward pass looks for the last token by its number.

    It passes over a token that also fills rows up, which is a word or the end of a text where a model has no token of
    its own for padding. Here the attention mask tells them apart, and only what is read is projected.
    """

    base_model: Any
    score: nn.Module
    config: PreTrainedConfig
    loss_function: Callable[..., Tensor]

    @classmethod
    def from_config(cls, config: PreTrainedConfig, **kwargs: Any) -> PreTrainedModel:
        """Returns a model of random weights, by the name that transformers' Auto classes have for it."""
        made: PreTrainedModel = cls._from_config(config, **kwargs)  # type: ignore[attr-defined]  # of the classifier
        return made

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> SequenceClassifierOutputWithPast:
        """Classifies rows.

        Args:
            input_ids: (B, S).
            attention_mask: (B, S), 0 at padding, on either side.
            labels: (B,), classes or grades.

        Returns:
            Logits, (B, classes), and the loss where there are labels.
        """
        rows, places = (torch.arange(count, device=input_ids.device) for count in input_ids.shape)
        last = -1 if attention_mask is None else (places * attention_mask).argmax(-1)
        # Ahead of the last norm, whose float32 tensors of whole rows would be more than a reversible layer needs.
        reading = self.base_model.norm.register_forward_pre_hook(lambda _, given: given[0][rows, last])
        try:
            read = self.base_model(input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        finally:
            reading.remove()
        logits = self.score(read)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutputWithPast(loss=loss, logits=logits)


def for_classification(classifier: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Returns a sequence classifier's class as one that reads each row's last token, under the same name."""
    return type(classifier.__name__, (ReadsLastToken, classifier), {})
