"""Models as those have them who call the Python interface: of transformers, plain or prepared by peft."""

import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import LlamaForCausalLM, OPTForCausalLM

import meft_runner
from meft_runner.backbones import FAMILIES
from tests.helpers.models import batch, move_away, tiny_config, tiny_model

_CAUSAL = {"llama": LlamaForCausalLM, "opt": OPTForCausalLM}  # with the loss of transformers


def model_of(kind, seed=0):
    torch.manual_seed(seed)
    return _CAUSAL[kind](tiny_config(kind)) if kind in _CAUSAL else tiny_model(kind, seed)


def batch_of(kind):
    return batch(f"{kind}-answers" if kind in _CAUSAL else kind)


def with_adapters(model, how, **settings):
    """A model as peft prepares it."""
    family = FAMILIES[model.config.model_type]
    torch.manual_seed(1)
    if how == "ia3":
        targets, feedforward = family.ia3_targets, family.ia3_feedforward
        return get_peft_model(model, IA3Config(target_modules=targets, feedforward_modules=feedforward))
    return get_peft_model(model, LoraConfig(target_modules=family.lora_targets, use_dora=how == "dora", **settings))


def prepared_by(model, how, **settings):
    """A model made reversible, by MEFT's adapters or around those of peft."""
    if how.startswith("meft"):
        torch.manual_seed(1)
        return meft_runner.make_reversible(model, how, **settings)
    return meft_runner.make_reversible(with_adapters(model, how), **settings)


def made(kind, how, **settings):
    """A reversible model in training, away from where it starts."""
    return move_away(prepared_by(model_of(kind), how, **settings)).train()


@torch.no_grad()
def outputs(model, kind):
    return model(**batch_of(kind)).logits
