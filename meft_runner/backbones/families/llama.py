"""Llama, Mistral, Qwen2 and Qwen3: causal decoders, pre-LN with RMSNorm, whose layers have the same parts and names."""

from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import (
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralForCausalLM,
    MistralForSequenceClassification,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

from meft_runner.backbones.answers import for_answers
from meft_runner.backbones.family import Family, LayerView, refuse_inputs
from meft_runner.backbones.last_token import for_classification
from meft_runner.backbones.pairs import separate_pairs
from meft_runner.config import Head
from meft_runner.reversible import BlockInputs


def attention_block(layer: Any, x: Tensor, inputs: BlockInputs, adapter: nn.Module | None = None) -> Tensor:
    """X + o + adapter(o), o = the attention's output projection of RMSNorm(x); (B, S, H)."""
    output, _ = layer.self_attn(
        hidden_states=layer.input_layernorm(x),
        position_embeddings=(inputs.cos, inputs.sin),
        attention_mask=inputs.attention_mask,
    )
    return x + (output if adapter is None else output + adapter(output))


def mlp_block(layer: Any, x: Tensor, inputs: BlockInputs, adapter: nn.Module | None = None) -> Tensor:
    """X + MLP(r) + adapter(r), r = RMSNorm(x); (B, S, H)."""
    read = layer.post_attention_layernorm(x)
    output = layer.mlp(read)
    return x + (output if adapter is None else output + adapter(read))


def block_inputs(
    model_type: str,
    attention_mask: Tensor | None = None,
    position_embeddings: tuple[Tensor | None, Tensor | None] = (None, None),
    position_ids: Tensor | None = None,
    **others: Any,
) -> BlockInputs:
    """Reads a layer's arguments; positions are in the rotary tensors already.

    Raises:
        UnsupportedInputError: the model keeps keys and values for generation.
    """
    refuse_inputs(model_type, **others)
    cos, sin = position_embeddings
    return BlockInputs(attention_mask=attention_mask, cos=cos, sin=sin)


def _family(model_type: str, causal: type[PreTrainedModel], classifier: type[PreTrainedModel]) -> Family:
    return Family(
        model_type=model_type,
        views=(LayerView("layers", attention_block, mlp_block, partial(block_inputs, model_type)),),
        heads={Head.lm: for_answers(causal), Head.classification: for_classification(classifier)},
        lora_targets=r".*\.self_attn\.(q_proj|v_proj)",
        ia3_targets=r".*\.self_attn\.(k_proj|v_proj)|.*\.layers\.\d+\.mlp\.down_proj",
        ia3_feedforward=r".*\.layers\.\d+\.mlp\.down_proj",
        dropout="attention_dropout",
        finish_tokenizer=separate_pairs,
        packs=True,
    )


LLAMA = _family("llama", LlamaForCausalLM, LlamaForSequenceClassification)
MISTRAL = _family("mistral", MistralForCausalLM, MistralForSequenceClassification)
QWEN2 = _family("qwen2", Qwen2ForCausalLM, Qwen2ForSequenceClassification)
QWEN3 = _family("qwen3", Qwen3ForCausalLM, Qwen3ForSequenceClassification)
