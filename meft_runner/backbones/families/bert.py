"""BERT and RoBERTa: post-LN encoders whose layers have the same parts under the same names."""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from meft_runner.backbones.attention import adapted, attend
from meft_runner.backbones.family import ENCODER_HEADS, Family, LayerView, refuse_inputs, tokenwise, whole_row
from meft_runner.reversible import BlockInputs


@tokenwise
def read(layer: Any, x: Tensor, inputs: BlockInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Returns queries, keys and values, (B, S, H) each."""
    attention = layer.attention.self
    return attention.query(x), attention.key(x), attention.value(x)


@whole_row
def attend_to_row(layer: Any, query: Tensor, key: Tensor, value: Tensor, inputs: BlockInputs) -> Tensor:
    """Returns the attention's result before its output projection, (B, S, H)."""
    attention = layer.attention.self
    size, dropout = attention.attention_head_size, attention.dropout.p
    return attend(attention, query, key, value, inputs.attention_mask, dropout, head_dim=size)


def attention_end(layer: Any, x: Tensor, context: Tensor, adapter: nn.Module | None = None) -> Tensor:
    """LayerNorm(x + dropout(o) + adapter(o)), o = the output projection of the attention's result; (B, S, H)."""
    end = layer.attention.output
    projected = end.dense(context)
    output = adapted(end.dropout(projected), adapter, projected)
    return end.LayerNorm(output + x)


def mlp_block(layer: Any, x: Tensor, adapter: nn.Module | None = None) -> Tensor:
    """LayerNorm(x + dropout(MLP(x)) + adapter(x)); (B, S, H)."""
    output = adapted(layer.output.dropout(layer.output.dense(layer.intermediate(x))), adapter, x)
    return layer.output.LayerNorm(output + x)


def block_inputs(
    model_type: str,
    attention_mask: Tensor | None = None,
    encoder_hidden_states: Tensor | None = None,
    encoder_attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    position_ids: Tensor | None = None,
    **others: Any,
) -> BlockInputs:
    """Reads a layer's arguments; positions are in the embeddings already.

    Raises:
        UnsupportedInputError: the model is run as a decoder.
    """
    refuse_inputs(
        model_type,
        encoder_hidden_states=encoder_hidden_states,
        encoder_attention_mask=encoder_attention_mask,
        past_key_values=past_key_values,
        **others,
    )
    return BlockInputs(attention_mask=attention_mask)


BERT = Family(
    model_type="bert",
    views=(LayerView("encoder.layer", (read, attend_to_row), attention_end, mlp_block, partial(block_inputs, "bert")),),
    heads=ENCODER_HEADS,
    lora_targets=r".*\.attention\.self\.(query|value)",
    ia3_targets=r".*\.attention\.self\.(key|value)|.*\.layer\.\d+\.output\.dense",
    ia3_feedforward=r".*\.layer\.\d+\.output\.dense",
)

ROBERTA = replace(
    BERT,
    model_type="roberta",
    views=(
        LayerView("encoder.layer", (read, attend_to_row), attention_end, mlp_block, partial(block_inputs, "roberta")),
    ),
    first_position=lambda config: config.pad_token_id + 1,
)
