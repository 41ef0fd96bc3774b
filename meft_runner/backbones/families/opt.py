"""OPT: a causal decoder, pre-LN but for the 350m form, which is post-LN with projections around the layers."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, OPTForCausalLM

from meft_runner.backbones.answers import for_answers
from meft_runner.backbones.family import Family, LayerView, refuse_inputs
from meft_runner.config import Head
from meft_runner.reversible import BlockInputs


def attention_block(layer: Any, x: Tensor, inputs: BlockInputs, adapter: nn.Module | None = None) -> Tensor:
    """X + F.dropout(o) + adapter(o), o = the attention's output projection; LayerNorm before or after; (B, S, H)."""
    read = layer.self_attn_layer_norm(x) if layer.do_layer_norm_before else x
    projected, _ = layer.self_attn(hidden_states=read, attention_mask=inputs.attention_mask)
    output = F.dropout(projected, p=layer.dropout, training=layer.training)
    if adapter is not None:
        output = output + adapter(projected)
    output = x + output
    return output if layer.do_layer_norm_before else layer.self_attn_layer_norm(output)


def mlp_block(layer: Any, x: Tensor, inputs: BlockInputs, adapter: nn.Module | None = None) -> Tensor:
    """X + F.dropout(MLP(r)) + adapter(r), r = what the MLP reads; LayerNorm before or after; (B, S, H)."""
    read = layer.final_layer_norm(x) if layer.do_layer_norm_before else x
    output = F.dropout(layer.fc2(layer.activation_fn(layer.fc1(read))), p=layer.dropout, training=layer.training)
    if adapter is not None:
        output = output + adapter(read)
    output = x + output
    return output if layer.do_layer_norm_before else layer.final_layer_norm(output)


def block_inputs(
    attention_mask: Tensor | None = None, position_ids: Tensor | None = None, **others: Any
) -> BlockInputs:
    """Reads a layer's arguments; positions are in the embeddings already.

    Raises:
        UnsupportedInputError: the model keeps keys and values for generation.
    """
    refuse_inputs("opt", **others)
    return BlockInputs(attention_mask=attention_mask)


OPTForAnswers = for_answers(OPTForCausalLM)

OPT = Family(
    model_type="opt",
    views=(LayerView("decoder.layers", attention_block, mlp_block, block_inputs),),
    heads={Head.classification: AutoModelForSequenceClassification, Head.lm: OPTForAnswers},
    lora_targets=r".*\.self_attn\.(q_proj|v_proj)",
    ia3_targets=r".*\.self_attn\.(k_proj|v_proj)|.*\.layers\.\d+\.fc2",
    ia3_feedforward=r".*\.layers\.\d+\.fc2",
    activation="activation_function",
    dropout="dropout",
    layer_drop=("layerdrop",),
)
