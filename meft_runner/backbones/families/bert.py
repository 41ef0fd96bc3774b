"""BERT and RoBERTa: post-LN encoders whose layers have the same parts under the same names."""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from meft_runner.backbones.family import ENCODER_HEADS, Family, LayerView, refuse_inputs
from meft_runner.reversible import BlockInputs


def attention_block(layer: Any, x: Tensor, inputs: BlockInputs, adapter: nn.Module | None = None) -> Tensor:
    """LayerNorm(x + dropout(o) + adapter(o)), o = the attention's output projection; (B, S, H)."""
    context, _ = layer.attention.self(x, attention_mask=inputs.attention_mask)
    return after_attention(layer.attention.output, x, context, adapter)


def after_attention(end: Any, x: Tensor, context: Tensor, adapter: nn.Module | None) -> Tensor:
    """LayerNorm(x + dropout(o) + adapter(o)), o = the output projection of the attention's result; (B, S, H)."""
    projected = end.dense(context)
    output = end.dropout(projected)
    if adapter is not None:
        output = output + adapter(projected)
    return end.LayerNorm(output + x)


def mlp_block(layer: Any, x: Tensor, inputs: BlockInputs, adapter: nn.Module | None = None) -> Tensor:
    """LayerNorm(x + dropout(MLP(x)) + adapter(x)); (B, S, H)."""
    output = layer.output.dropout(layer.output.dense(layer.intermediate(x)))
    if adapter is not None:
        output = output + adapter(x)
    return layer.output.LayerNorm(output + x)


def block_inputs(
    model_type: str,
    attention_mask: Tensor | None = None,
    encoder_hidden_states: Tensor | None = None,
    encoder_attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    position_ids: Tensor | None = None,
    num_items_in_batch: Any = None,
    **others: Any,
) -> BlockInputs:
    """Reads a layer's arguments; positions are in the embeddings already, the loss counts its items itself.

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
    views=(LayerView("encoder.layer", attention_block, mlp_block, partial(block_inputs, "bert")),),
    heads=ENCODER_HEADS,
    lora_targets=r".*\.attention\.self\.(query|value)",
    ia3_targets=r".*\.attention\.self\.(key|value)|.*\.layer\.\d+\.output\.dense",
    ia3_feedforward=r".*\.layer\.\d+\.output\.dense",
)

ROBERTA = replace(
    BERT,
    model_type="roberta",
    views=(LayerView("encoder.layer", attention_block, mlp_block, partial(block_inputs, "roberta")),),
    first_position=lambda config: config.pad_token_id + 1,
)
