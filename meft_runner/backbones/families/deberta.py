"""DeBERTa-v3 (of the type deberta-v2): BERT's post-LN layers, whose attention reads distances between tokens besides.

It is the newer encoder that fits a stack as it is: all its layers get the same mask and the same vectors of distances.
ModernBERT's loop picks one of two masks and of two pairs of rotary tensors by the type of the layer that it calls.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

from meft_runner.backbones.families.bert import attention_end, mlp_block
from meft_runner.backbones.family import ENCODER_HEADS, Family, LayerView, refuse_inputs, whole_row
from meft_runner.reversible import BlockInputs


@whole_row  # the projections too: this attention's scores of (S, S) are in memory anyway
def attend_to_row(layer: Any, x: Tensor, inputs: BlockInputs) -> Tensor:
    """Returns the attention's result before its output projection, (B, S, H)."""
    embeddings = inputs.relative_embeddings
    context, _ = layer.attention.self(
        x,
        inputs.attention_mask,
        relative_pos=inputs.relative_positions,
        rel_embeddings=None if embeddings is None else embeddings[0],
    )
    return context


def block_inputs(
    attention_mask: Tensor,
    relative_pos: Tensor | None = None,
    rel_embeddings: Tensor | None = None,
    **others: Any,
) -> BlockInputs:
    """Reads a layer's arguments; the mask, (B, 1, S, S), as the layer converts it, and an eighth as large.

    Raises:
        UnsupportedInputError: attention is asked for, or queries are other than the layer's input.
    """
    refuse_inputs("deberta-v2", **others)
    return BlockInputs(
        attention_mask=attention_mask.bool(),
        relative_positions=relative_pos,
        relative_embeddings=None if rel_embeddings is None else rel_embeddings.unsqueeze(0),
    )


def finish_model(model: PreTrainedModel) -> None:
    """Makes attention mask its scores in the dtype that autocast multiplies in, whatever the projections return.

    The layers fill masked scores with the lowest number of the queries' dtype, which half precision cannot hold where
    a method of peft, or packed weights, return queries in float32.
    """
    for module in model.modules():
        if isinstance(module, DisentangledSelfAttention):
            attention: Any = module
            attention.transpose_for_scores = _by_heads


def _by_heads(x: Tensor, heads: int) -> Tensor:
    """Returns (B, S, H) as (B * heads, S, H / heads), in autocast's dtype where it is on."""
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    rows, length, hidden = x.shape
    return x.view(rows, length, heads, -1).transpose(1, 2).reshape(rows * heads, length, hidden // heads)


DEBERTA = Family(
    model_type="deberta-v2",
    views=(
        LayerView(
            "encoder.layer", (attend_to_row,), attention_end, mlp_block, block_inputs, lambda hidden: (hidden, None)
        ),
    ),
    heads=ENCODER_HEADS,
    lora_targets=r".*\.attention\.self\.(query_proj|value_proj)",
    ia3_targets=r".*\.attention\.self\.(key_proj|value_proj)|.*\.layer\.\d+\.output\.dense",
    ia3_feedforward=r".*\.layer\.\d+\.output\.dense",
    between_layers=("conv_kernel_size",),
    fused_attention=False,
    finish_model=finish_model,
)
