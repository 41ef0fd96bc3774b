"""BART: a post-LN encoder, and a post-LN decoder whose blocks also attend to the encoder's output."""

from typing import Any

from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from meft_runner.backbones.attention import adapted, attend, project
from meft_runner.backbones.family import ENCODER_HEADS, Family, LayerView, refuse_inputs, tokenwise, whole_row
from meft_runner.config import Head
from meft_runner.reversible import BlockInputs


@tokenwise
def read(layer: Any, x: Tensor, inputs: BlockInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Returns queries, keys and values, (B, S, H) each."""
    return project(layer.self_attn, x)


@whole_row
def attend_to_row(layer: Any, query: Tensor, key: Tensor, value: Tensor, inputs: BlockInputs) -> Tensor:
    """Returns the attention's result before its output projection, (B, S, H)."""
    return attend(layer.self_attn, query, key, value, inputs.attention_mask, layer.self_attn.dropout)


def attention_end(layer: Any, x: Tensor, context: Tensor, adapter: nn.Module | None = None) -> Tensor:
    """LayerNorm(x + F.dropout(o) + adapter(o)), o = the attention's output projection; (B, S, H)."""
    projected = layer.self_attn.out_proj(context)
    return layer.self_attn_layer_norm(x + _dropped(layer, projected, projected, adapter))


@tokenwise
def read_for_encoder(layer: Any, x: Tensor, context: Tensor, inputs: BlockInputs) -> tuple[Tensor, Tensor]:
    """Returns y, the result of the decoder's own attention, and what it asks of the encoder, (B, S, H) each."""
    y = attention_end(layer, x, context)
    return y, layer.encoder_attn.q_proj(y)


@whole_row
def attend_to_encoder(layer: Any, y: Tensor, query: Tensor, inputs: BlockInputs) -> tuple[Tensor, Tensor]:
    """Returns y and the result of the attention to the encoder's states, (B, S, H) each."""
    attention, states = layer.encoder_attn, inputs.encoder_states
    key, value = attention.k_proj(states), attention.v_proj(states)
    return y, attend(attention, query, key, value, inputs.encoder_mask, attention.dropout)


def decoder_attention_end(
    layer: Any, x: Tensor, y: Tensor, context: Tensor, adapter: nn.Module | None = None
) -> Tensor:
    """LayerNorm(y + F.dropout(o) + adapter(o)), o = the output projection of the attention to the encoder; (B, S, H).

    The adapter stands there alone: it is the last projection before the MLP.
    """
    projected = layer.encoder_attn.out_proj(context)
    return layer.encoder_attn_layer_norm(y + _dropped(layer, projected, projected, adapter))


def mlp_block(layer: Any, x: Tensor, adapter: nn.Module | None = None) -> Tensor:
    """LayerNorm(x + F.dropout(MLP(x)) + adapter(x)); (B, S, H)."""
    inner = F.dropout(layer.activation_fn(layer.fc1(x)), p=layer.activation_dropout, training=layer.training)
    return layer.final_layer_norm(x + _dropped(layer, layer.fc2(inner), x, adapter))


def encoder_inputs(attention_mask: Tensor | None = None, **others: Any) -> BlockInputs:
    """Reads the arguments of an encoder layer.

    Raises:
        UnsupportedInputError: there are others.
    """
    refuse_inputs("bart's encoder", **others)
    return BlockInputs(attention_mask=attention_mask)


def decoder_inputs(
    attention_mask: Tensor | None = None,
    encoder_hidden_states: Tensor | None = None,
    encoder_attention_mask: Tensor | None = None,
    **others: Any,
) -> BlockInputs:
    """Reads the arguments of a decoder layer.

    Raises:
        UnsupportedInputError: the model keeps keys and values for generation.
    """
    refuse_inputs("bart's decoder", **others)
    return BlockInputs(attention_mask, encoder_hidden_states, encoder_attention_mask)


def _dropped(layer: Any, output: Tensor, read: Tensor, adapter: nn.Module | None) -> Tensor:
    """Returns F.dropout(output) + adapter(read), (B, S, H)."""
    output = F.dropout(output, p=layer.dropout, training=layer.training)
    return adapted(output, adapter, read)


def finish_tokenizer(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """Gives a tokenizer that does not mark the ends of texts and pairs BART's marks: its head reads the last one."""
    if all(config.eos_token_id in tokenizer(*texts)["input_ids"] for texts in (["a"], ["a", "a"])):
        return
    ids = {"bos": config.bos_token_id, "eos": config.eos_token_id}
    begin, end = (str(tokenizer.convert_ids_to_tokens(ids[name])) for name in ("bos", "eos"))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} {end} $B {end}",
        special_tokens=[(begin, ids["bos"]), (end, ids["eos"])],
    )


_OWN, _TO_ENCODER = (read, attend_to_row), (read_for_encoder, attend_to_encoder)

BART = Family(
    model_type="bart",
    views=(
        LayerView("encoder.layers", _OWN, attention_end, mlp_block, encoder_inputs),
        LayerView("decoder.layers", (*_OWN, *_TO_ENCODER), decoder_attention_end, mlp_block, decoder_inputs),
    ),
    # The classification head looks for end marks, which have no values where memory is predicted: the other one first.
    heads={Head.span: ENCODER_HEADS[Head.span], Head.classification: ENCODER_HEADS[Head.classification]},
    lora_targets=r".*\.(self_attn|encoder_attn)\.(q_proj|v_proj)",
    ia3_targets=r".*\.(self_attn|encoder_attn)\.(k_proj|v_proj)|.*\.layers\.\d+\.fc2",
    ia3_feedforward=r".*\.layers\.\d+\.fc2",
    activation="activation_function",
    dropout="dropout",
    layer_drop=("encoder_layerdrop", "decoder_layerdrop"),
    finish_tokenizer=finish_tokenizer,
)
