"""Models as those have them who call the Python interface: of transformers, plain or prepared by peft."""

import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import LlamaForCausalLM, OPTForCausalLM

import meft_runner
from tests.helpers.models import batch, family_of, move_away, tiny_config, tiny_model

_CAUSAL = {"llama": LlamaForCausalLM, "opt": OPTForCausalLM}  # with the loss of transformers


def model_of(kind, seed=0):
    torch.manual_seed(seed)
    return _CAUSAL[kind](tiny_config(kind)) if kind in _CAUSAL else tiny_model(kind, seed)


def batch_of(kind):
    return batch(f"{kind}-answers" if kind in _CAUSAL else kind)


def with_adapters(kind, how, **settings):
    """A model that peft has prepared."""
    family, model = family_of(kind), model_of(kind)
    torch.manual_seed(1)
    if how == "ia3":
        targets, feedforward = family.ia3_targets, family.ia3_feedforward
        return get_peft_model(model, IA3Config(target_modules=targets, feedforward_modules=feedforward))
    return get_peft_model(model, LoraConfig(target_modules=family.lora_targets, use_dora=how == "dora", **settings))


def made(kind, how, **settings):
    """A reversible model in training, away from where it starts."""
    if how.startswith("meft"):
        torch.manual_seed(1)
        model = meft_runner.make_reversible(model_of(kind), how, **settings)
    else:
        model = meft_runner.make_reversible(with_adapters(kind, how), **settings)
    return move_away(model).train()


@torch.no_grad()
def outputs(model, kind):
    return model(**batch_of(kind)).logits
