"""OPT: a causal decoder, pre-LN but for the 350m form, which is post-LN with projections around the layers."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, OPTForCausalLM

from meft_runner.backbones.answers import for_answers
from meft_runner.backbones.attention import adapted, attend, project
from meft_runner.backbones.family import Family, LayerView, refuse_inputs, tokenwise, whole_row
from meft_runner.config import Head
from meft_runner.reversible import BlockInputs


@tokenwise
def read(layer: Any, x: Tensor, inputs: BlockInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Returns scaled queries, keys and values of x or of LayerNorm(x), (B, S, H) each."""
    query, key, value = project(layer.self_attn, layer.self_attn_layer_norm(x) if layer.do_layer_norm_before else x)
    return query * layer.self_attn.scaling, key, value


@whole_row
def attend_to_row(layer: Any, query: Tensor, key: Tensor, value: Tensor, inputs: BlockInputs) -> Tensor:
    """Returns the attention's result before its output projection, (B, S, H)."""
    attention = layer.self_attn
    return attend(attention, query, key, value, inputs.attention_mask, attention.dropout, scaling=1.0)


def attention_end(layer: Any, x: Tensor, context: Tensor, adapter: nn.Module | None = None) -> Tensor:
    """X + F.dropout(o) + adapter(o), o = the attention's output projection; LayerNorm before or after; (B, S, H)."""
    projected = layer.self_attn.out_proj(context)
    output = adapted(F.dropout(projected, p=layer.dropout, training=layer.training), adapter, projected)
    output = x + output
    return output if layer.do_layer_norm_before else layer.self_attn_layer_norm(output)


def mlp_block(layer: Any, x: Tensor, adapter: nn.Module | None = None) -> Tensor:
    """X + F.dropout(MLP(r)) + adapter(r), r = what the MLP reads; LayerNorm before or after; (B, S, H)."""
    read = layer.final_layer_norm(x) if layer.do_layer_norm_before else x
    output = F.dropout(layer.fc2(layer.activation_fn(layer.fc1(read))), p=layer.dropout, training=layer.training)
    output = adapted(output, adapter, read)
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
    views=(LayerView("decoder.layers", (read, attend_to_row), attention_end, mlp_block, block_inputs),),
    heads={Head.classification: AutoModelForSequenceClassification, Head.lm: OPTForAnswers},
    lora_targets=r".*\.self_attn\.(q_proj|v_proj)",
    ia3_targets=r".*\.self_attn\.(k_proj|v_proj)|.*\.layers\.\d+\.fc2",
    ia3_feedforward=r".*\.layers\.\d+\.fc2",
    activation="activation_function",
    dropout="dropout",
    layer_drop=("layerdrop",),
)
