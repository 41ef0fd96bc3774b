"""Small models of real Hugging Face layers, for tests."""

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from meft_runner import methods
from meft_runner.backbones import FAMILIES
from meft_runner.settings import BackboneSettings, MeftSettings, Reversal

SCALES = {"meft1": ("1/10", "1"), "meft2": ("1", "1/10"), "meft3": ("1/10", "1/10")}
VARIANTS = tuple(SCALES)


def tiny_config(model_type="bert", layers=2, dropout=0.1, attention="sdpa", hidden=64):
    config_class = {"bert": BertConfig, "roberta": RobertaConfig}[model_type]
    return config_class(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        vocab_size=100,
        max_position_embeddings=66,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        attn_implementation=attention,
        type_vocab_size=2 if model_type == "bert" else 1,
        num_labels=2,
    )


def tiny_model(model_type="bert", seed=0, **kwargs) -> PreTrainedModel:
    torch.manual_seed(seed)
    model_class = {"bert": BertForSequenceClassification, "roberta": RobertaForSequenceClassification}[model_type]
    return model_class(tiny_config(model_type, **kwargs))


def backbone_settings(model_type="bert") -> BackboneSettings:
    merge = {variant: [0.5, 0.5] for variant in VARIANTS}
    return BackboneSettings(name="tiny", model_type=model_type, hub="nobody/tiny", merge=merge)


def meft_settings(variant="meft1", reversal="exact", **kwargs) -> MeftSettings:
    scale_1, scale_2 = SCALES[variant]
    return MeftSettings(
        **{"name": variant, "learning_rate": 1e-3, "scale_1": scale_1, "scale_2": scale_2} | kwargs,
        reversal=Reversal[reversal],
    )


def prepared(method, model_type="bert", model=None, **kwargs):
    model = model or tiny_model(model_type, **kwargs)
    torch.manual_seed(1)
    return methods.prepare(model, FAMILIES[model_type], backbone_settings(model_type), method).train()


def batch(rows=4, length=12, seed=2, padded=True):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(rows, length, dtype=torch.long)
    if padded:
        mask[0, length // 2 :] = 0
    return {
        "input_ids": torch.randint(5, 100, (rows, length), generator=generator),
        "attention_mask": mask,
        "labels": torch.randint(0, 2, (rows,), generator=generator),
    }


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
