"""Small models of real Hugging Face layers, for tests."""

import pytest
import torch
from transformers import (
    BartConfig,
    BartForQuestionAnswering,
    BartForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForQuestionAnswering,
    DebertaV2ForSequenceClassification,
    DeiTConfig,
    DeiTForImageClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForSequenceClassification,
    OPTConfig,
    OPTForSequenceClassification,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

from meft_runner.backbones import FAMILIES
from meft_runner.backbones.answers import IGNORED
from meft_runner.backbones.families.opt import OPTForAnswers
from meft_runner.backbones.weights import held_dtype, quantise, settle
from meft_runner.config import (
    BackboneSettings,
    Head,
    Ia3Settings,
    LoraSettings,
    MeftSettings,
    PeftReversal,
    PeftSettings,
    Precision,
    Reversal,
    VeraSettings,
    WeightForm,
)
from meft_runner.methods.prepare import prepare
from meft_runner.methods.variants import VARIANTS as TABLE

VARIANTS = tuple(TABLE)
PEFT_METHODS = {"lora": LoraSettings, "dora": LoraSettings, "ia3": Ia3Settings, "vera": VeraSettings}
VOCABULARY = 100
MAX_POSITIONS = 66

# Every kind of model: how its configuration is built, and its class.
MODELS = {
    "bert": (BertConfig, BertForSequenceClassification),
    "roberta": (RobertaConfig, RobertaForSequenceClassification),
    "deberta": (DebertaV2Config, DebertaV2ForSequenceClassification),
    "deberta-span": (DebertaV2Config, DebertaV2ForQuestionAnswering),
    "bart": (BartConfig, BartForSequenceClassification),
    "bart-span": (BartConfig, BartForQuestionAnswering),
    "opt": (OPTConfig, OPTForSequenceClassification),
    "opt-answers": (OPTConfig, OPTForAnswers),
    "opt-postln": (OPTConfig, OPTForSequenceClassification),
    "vit": (ViTConfig, ViTForImageClassification),
    "deit": (DeiTConfig, DeiTForImageClassification),
    "llama": (LlamaConfig, LlamaForSequenceClassification),
    "llama-answers": (LlamaConfig, FAMILIES["llama"].heads[Head.lm]),
    "mistral": (MistralConfig, MistralForSequenceClassification),
    "qwen2": (Qwen2Config, Qwen2ForSequenceClassification),
    "qwen3": (Qwen3Config, Qwen3ForSequenceClassification),
    "qwen3-answers": (Qwen3Config, FAMILIES["qwen3"].heads[Head.lm]),
}
SAME_LAYER = ("llama-answers", "deberta-span", "mistral", "qwen2", "qwen3")  # as another kind's: in the longer tests
KINDS = [pytest.param(kind, marks=pytest.mark.slow if kind in SAME_LAYER else ()) for kind in MODELS]
# DeBERTa-v3's attention to distances, of which those beyond four tokens share vectors.
DISTANCES = {"relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True,
             "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}  # fmt: skip

PRECISIONS = {None: Precision.fp32, torch.bfloat16: Precision.bf16, torch.float16: Precision.fp16}  # by autocast


def model_type_of(kind):
    return MODELS[kind][0].model_type


def family_of(kind="bert"):
    return FAMILIES[model_type_of(kind)]


def tiny_config(kind="bert", layers=2, dropout=0.1, attention="sdpa", hidden=64):
    """A configuration of one kind; `layers` is the depth of every stack."""
    encoder = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 2 * hidden,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
    text = {"vocab_size": VOCABULARY, "max_position_embeddings": MAX_POSITIONS}
    image = {"image_size": 16, "patch_size": 4}
    decoder = text | {"hidden_size": hidden, "num_hidden_layers": layers, "attention_dropout": dropout}
    decoder |= {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 2 * hidden}
    decoder |= {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    own = {
        "bert": encoder | text | {"type_vocab_size": 2},
        "roberta": encoder | text | {"type_vocab_size": 1},
        "deberta-v2": encoder | text | DISTANCES,
        "vit": encoder | image,
        "deit": encoder | image,
        "bart": text
        | {"d_model": hidden, "encoder_layers": layers, "decoder_layers": layers, "dropout": dropout}
        | {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "attention_dropout": dropout}
        | {"encoder_ffn_dim": 2 * hidden, "decoder_ffn_dim": 2 * hidden, "activation_dropout": dropout},
        "opt": text
        | {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 4, "ffn_dim": 2 * hidden}
        | {"dropout": dropout, "attention_dropout": dropout, "word_embed_proj_dim": hidden},
        "llama": decoder,
        "mistral": decoder | {"sliding_window": 8},
        "qwen2": decoder,
        "qwen3": decoder | {"head_dim": 32},
    }[model_type_of(kind)]
    if kind == "opt-postln":  # the form of OPT-350m
        own |= {"do_layer_norm_before": False, "word_embed_proj_dim": hidden // 2}
    attention = attention if family_of(kind).fused_attention else "eager"
    return MODELS[kind][0](attn_implementation=attention, num_labels=2, **own)


def tiny_model(kind="bert", seed=0, **kwargs) -> PreTrainedModel:
    torch.manual_seed(seed)
    model = MODELS[kind][1](tiny_config(kind, **kwargs))
    model.config.use_cache = False
    return model


def in_form(model, form, precision=None) -> PreTrainedModel:
    """Puts the weights of a model into a form, as loading does; `precision` is the dtype of autocast."""
    dtype = held_dtype(WeightForm[form], PRECISIONS[precision])
    quantise(model.to(dtype), WeightForm[form], dtype)
    settle(model)
    return model


def backbone_settings(kind="bert", form="fp32") -> BackboneSettings:
    names = {"name": "tiny", "model_types": [model_type_of(kind)], "hub": "nobody/tiny"}
    return BackboneSettings(**names, weights=WeightForm[form])


def meft_settings(variant="meft1", reversal="exact", **kwargs) -> MeftSettings:
    scales = {"scale_1": TABLE[variant].scale_1, "scale_2": TABLE[variant].scale_2}
    return MeftSettings(
        **{"name": variant, "learning_rate": 1e-3, "merge": [0.5, 0.5]} | scales | kwargs,
        reversal=Reversal[reversal],
    )


def peft_settings(name="lora", reversal="exact", **kwargs) -> PeftSettings:
    own = {"dora": {"decomposed": True}, "vera": {"rank": 8}}.get(name, {})
    return PEFT_METHODS[name](name=name, learning_rate=1e-3, reversal=PeftReversal[reversal], **own | kwargs)


def move_away(model, size=0.1, seed=8):
    """Moves what trains away from where it starts, where a factor at zero hides the other one's gradient."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += size * torch.randn(parameter.shape, generator=generator)
    return model


def prepared(method, kind="bert", model=None, form="fp32", precision=None, **kwargs):
    model = in_form(model or tiny_model(kind, **kwargs), form, precision)
    torch.manual_seed(1)
    return prepare(model, family_of(kind), backbone_settings(kind, form), method).train()


def batch(kind="bert", rows=4, length=12, seed=2, padding="right"):
    """Inputs with labels; the first row of texts is padded on one side, or not at all with padding=None."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (rows,), generator=generator)
    if family_of(kind).model_type in ("vit", "deit"):
        return {"pixel_values": torch.randn(rows, 3, 16, 16, generator=generator), "labels": labels}
    ids = torch.randint(5, VOCABULARY, (rows, length), generator=generator)
    mask = torch.ones(rows, length, dtype=torch.long)
    if padding is not None:
        half = slice(length // 2, None) if padding == "right" else slice(0, length // 2)
        mask[0, half] = 0
        ids[0, half] = 1
    if kind == "bart":  # the head reads the state of the one </s> that every row must have
        last = [length // 2 - 1 if padding == "right" else length - 1] + [length - 1] * (rows - 1)
        ids[range(rows), last] = 2
    inputs = {"input_ids": ids, "attention_mask": mask}
    if kind.endswith("-span"):
        ends = torch.randint(2, length // 2, (rows,), generator=generator)
        return inputs | {"start_positions": ends - 1, "end_positions": ends}
    if kind.endswith("-answers"):
        answers = torch.zeros_like(mask, dtype=torch.bool)
        answers[:, -3:] = answers[0, 3:5] = True
        return inputs | {"labels": ids.where(answers & mask.bool(), IGNORED)}
    return inputs | {"labels": labels}


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
