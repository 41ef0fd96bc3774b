"""ViT and DeiT: pre-LN encoders of image patches whose layers have the same parts under the same names."""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from meft_runner.backbones.attention import adapted, attend, project
from meft_runner.backbones.family import IMAGE_HEADS, Family, LayerView, refuse_inputs, tokenwise, whole_row
from meft_runner.reversible import BlockInputs


@tokenwise
def read(layer: Any, x: Tensor, inputs: BlockInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Returns queries, keys and values of LayerNorm(x), (B, S, H) each."""
    return project(layer.attention, layer.layernorm_before(x))


@whole_row
def attend_to_row(layer: Any, query: Tensor, key: Tensor, value: Tensor, inputs: BlockInputs) -> Tensor:
    """Returns the attention's result before its output projection, (B, S, H)."""
    return attend(layer.attention, query, key, value, inputs.attention_mask, layer.attention.attention_dropout)


def attention_end(layer: Any, x: Tensor, context: Tensor, adapter: nn.Module | None = None) -> Tensor:
    """X + dropout(o) + adapter(o), o = the attention's output projection; (B, S, H)."""
    projected = layer.attention.o_proj(context)
    output = adapted(layer.dropout(projected), adapter, projected)
    return output + x


def mlp_block(layer: Any, x: Tensor, adapter: nn.Module | None = None) -> Tensor:
    """X + dropout(MLP(r)) + adapter(r), r = LayerNorm(x); (B, S, H)."""
    read = layer.layernorm_after(x)
    output = adapted(layer.dropout(layer.mlp(read)), adapter, read)
    return output + x


def block_inputs(model_type: str, attention_mask: Tensor | None = None, **others: Any) -> BlockInputs:
    """Reads a layer's arguments.

    Raises:
        UnsupportedInputError: there are others than a mask.
    """
    refuse_inputs(model_type, **others)
    return BlockInputs(attention_mask=attention_mask)


VIT = Family(
    model_type="vit",
    views=(LayerView("layers", (read, attend_to_row), attention_end, mlp_block, partial(block_inputs, "vit")),),
    heads=IMAGE_HEADS,
    lora_targets=r".*\.attention\.(q_proj|v_proj)",
    ia3_targets=r".*\.attention\.(k_proj|v_proj)|.*\.mlp\.fc2",
    ia3_feedforward=r".*\.mlp\.fc2",
)

DEIT = replace(
    VIT,
    model_type="deit",
    views=(LayerView("layers", (read, attend_to_row), attention_end, mlp_block, partial(block_inputs, "deit")),),
    image_marks=2,  # the class token and the distillation token
)
