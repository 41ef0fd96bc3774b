"""Llama, Mistral, Qwen2 and Qwen3: causal decoders, pre-LN with RMSNorm, whose layers have the same parts and names."""

from functools import partial
from typing import Any

import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from meft_runner.backbones.answers import for_answers
from meft_runner.backbones.attention import adapted, attend, project
from meft_runner.backbones.family import PACKED, Family, LayerView, refuse_inputs, tokenwise, whole_row
from meft_runner.backbones.last_token import for_classification
from meft_runner.backbones.pairs import separate_pairs
from meft_runner.config import Head
from meft_runner.reversible import BlockInputs


@tokenwise
def read(layer: Any, x: Tensor, inputs: BlockInputs) -> tuple[Tensor, ...]:
    """Returns queries, keys and values of RMSNorm(x), the first two rotated, (B, S, heads * D) each."""
    attention = layer.self_attn
    projected = project(attention, layer.input_layernorm(x))
    query, key, value = (each.unflatten(-1, (-1, attention.head_dim)) for each in projected)
    if hasattr(attention, "q_norm"):  # Qwen3's
        query, key = attention.q_norm(query), attention.k_norm(key)
    query, key = apply_rotary_pos_emb(query, key, inputs.cos, inputs.sin, unsqueeze_dim=2)
    return query.flatten(2), key.flatten(2), value.flatten(2)


@whole_row
def attend_to_row(layer: Any, query: Tensor, key: Tensor, value: Tensor, inputs: BlockInputs) -> Tensor:
    """Returns the attention's result before its output projection, (B, S, heads * D)."""
    return attend(layer.self_attn, query, key, value, inputs.attention_mask, layer.self_attn.attention_dropout)


def attention_end(layer: Any, x: Tensor, context: Tensor, adapter: nn.Module | None = None) -> Tensor:
    """X + o + adapter(o), o = the output projection of the attention's result; (B, S, H)."""
    output = layer.self_attn.o_proj(context)
    return x + adapted(output, adapter, output)


def mlp_block(layer: Any, x: Tensor, adapter: nn.Module | None = None) -> Tensor:
    """X + MLP(r) + adapter(r), r = RMSNorm(x); (B, S, H)."""
    read = layer.post_attention_layernorm(x)
    output = layer.mlp(read)
    return x + adapted(output, adapter, read)


def block_inputs(
    model_type: str,
    attention_mask: Tensor | None = None,
    position_embeddings: tuple[Tensor | None, Tensor | None] = (None, None),
    position_ids: Tensor | None = None,
    **others: Any,
) -> BlockInputs:
    """Reads a layer's arguments; positions are in the rotary tensors already, and packed texts apart in the mask.

    Raises:
        UnsupportedInputError: the model keeps keys and values for generation.
    """
    refuse_inputs(model_type, **{name: value for name, value in others.items() if name not in PACKED})
    cos, sin = position_embeddings
    return BlockInputs(attention_mask=attention_mask, cos=cos, sin=sin)


def _family(model_type: str, causal: type[PreTrainedModel], classifier: type[PreTrainedModel]) -> Family:
    return Family(
        model_type=model_type,
        views=(
            LayerView("layers", (read, attend_to_row), attention_end, mlp_block, partial(block_inputs, model_type)),
        ),
        heads={Head.lm: for_answers(causal), Head.classification: for_classification(classifier)},
        lora_targets=r".*\.self_attn\.(q_proj|v_proj)",
        ia3_targets=r".*\.self_attn\.(k_proj|v_proj)|.*\.layers\.\d+\.mlp\.down_proj",
        ia3_feedforward=r".*\.layers\.\d+\.mlp\.down_proj",
        dropout="attention_dropout",
        finish_tokenizer=separate_pairs,
        packs=True,
    )


LLAMA = _family("llama", transformers.LlamaForCausalLM, transformers.LlamaForSequenceClassification)
MISTRAL = _family("mistral", transformers.MistralForCausalLM, transformers.MistralForSequenceClassification)
QWEN2 = _family("qwen2", transformers.Qwen2ForCausalLM, transformers.Qwen2ForSequenceClassification)
QWEN3 = _family("qwen3", transformers.Qwen3ForCausalLM, transformers.Qwen3ForSequenceClassification)
