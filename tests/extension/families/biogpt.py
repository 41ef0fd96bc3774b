"""BioGPT: a causal decoder, pre-LN."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, BioGptForCausalLM

from meft_runner.backbones.answers import for_answers
from meft_runner.backbones.attention import attend, project
from meft_runner.backbones.family import Family, LayerView, refuse_inputs, tokenwise, whole_row
from meft_runner.config import Head
from meft_runner.reversible import BlockInputs


@tokenwise
def read(layer: Any, x: Tensor, inputs: BlockInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Returns queries, keys and values of LayerNorm(x), (B, S, H) each."""
    return project(layer.self_attn, layer.self_attn_layer_norm(x))


@whole_row
def attend_to_row(layer: Any, query: Tensor, key: Tensor, value: Tensor, inputs: BlockInputs) -> Tensor:
    """Returns the attention's result before its output projection, (B, S, H)."""
    return attend(layer.self_attn, query, key, value, inputs.attention_mask, layer.self_attn.dropout)


def attention_end(layer: Any, x: Tensor, context: Tensor, adapter: nn.Module | None = None) -> Tensor:
    """X + F.dropout(o) + adapter(o), o = the attention's output projection; (B, S, H)."""
    projected = layer.self_attn.out_proj(context)
    output = F.dropout(projected, p=layer.dropout, training=layer.training)
    return x + (output if adapter is None else output + adapter(projected))


def mlp_block(layer: Any, x: Tensor, adapter: nn.Module | None = None) -> Tensor:
    """X + F.dropout(MLP(r)) + adapter(r), r = LayerNorm(x); (B, S, H)."""
    read = layer.final_layer_norm(x)
    inner = F.dropout(layer.activation_fn(layer.fc1(read)), p=layer.activation_dropout, training=layer.training)
    output = F.dropout(layer.fc2(inner), p=layer.dropout, training=layer.training)
    return x + (output if adapter is None else output + adapter(read))


def block_inputs(
    attention_mask: Tensor | None = None, position_ids: Tensor | None = None, **others: Any
) -> BlockInputs:
    """Reads a layer's arguments; positions are in the embeddings already.

    Raises:
        UnsupportedInputError: the model keeps keys and values for generation.
    """
    refuse_inputs("biogpt", **others)
    return BlockInputs(attention_mask=attention_mask)


BIOGPT = Family(
    model_type="biogpt",
    views=(LayerView("layers", (read, attend_to_row), attention_end, mlp_block, block_inputs),),
    heads={Head.classification: AutoModelForSequenceClassification, Head.lm: for_answers(BioGptForCausalLM)},
    lora_targets=r".*\.self_attn\.(q_proj|v_proj)",
    ia3_targets=r".*\.self_attn\.(k_proj|v_proj)|.*\.layers\.\d+\.fc2",
    ia3_feedforward=r".*\.layers\.\d+\.fc2",
    layer_drop=("layerdrop",),
)
