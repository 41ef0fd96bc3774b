"""What is noted of a base model: the same however it was loaded or prepared, another one in any of its parts."""

import copy
import json

import pytest
import torch
from peft import KasaConfig, LoraConfig, OFTConfig, get_peft_model
from transformers import BartConfig, BartForCausalLM

from meft_runner.methods.base_model import description_of, difference, is_description
from tests.helpers.interface import model_of, with_adapters
from tests.helpers.models import move_away, tiny_model


def apart(then, now, trained=()):
    """Returns how a model differs from one that was described, and written to a file."""
    return difference(json.loads(json.dumps(description_of(then))), description_of(now), trained)


def rounded(*dtypes, kind="bert"):
    """A model whose weights have been in other types."""
    model = model_of(kind)
    for dtype in dtypes:
        model = model.to(dtype)
    return model


def peft(kind="llama", **settings):
    """A trained model of peft around a base."""
    model = get_peft_model(model_of(kind), LoraConfig(**{"target_modules": ["q_proj", "v_proj"], **settings}))
    return move_away(model).get_base_model()


def other_pooler():
    model = model_of("bert").bert
    torch.nn.init.normal_(model.pooler.dense.weight)
    return model


def rotated():
    return get_peft_model(model_of("llama"), OFTConfig(target_modules=["q_proj"], oft_block_size=4)).get_base_model()


def with_more_words(seed):
    model = model_of("llama")
    torch.manual_seed(seed)
    model.resize_token_embeddings(model.config.vocab_size + 4)
    return model


def computed(dtype):
    """A base into which an adapter was merged in a type."""
    torch.manual_seed(5)
    model = get_peft_model(model_of("llama").to(dtype), LoraConfig(target_modules="all-linear"))
    return move_away(model).merge_and_unload()


SAME = {
    "bfloat16": lambda: (rounded(torch.bfloat16), rounded()),
    "once bfloat16": lambda: (rounded(torch.bfloat16, torch.float32), rounded()),
    "once float16": lambda: (rounded(torch.float16, torch.float32), rounded(torch.bfloat16)),
    "float64": lambda: (rounded(), rounded(torch.float64)),
    "new words": lambda: (with_more_words(1), with_more_words(2)),
    "one layer": lambda: (peft(layers_to_transform=[1], bias="all"), model_of("llama")),
    "new starts": lambda: (peft(init_lora_weights="olora"), model_of("llama")),
    "new starts of one layer": lambda: (peft(init_lora_weights="olora", layers_to_transform=[1]), model_of("llama")),
    "cut weights": lambda: (peft(kasa_config=KasaConfig()), model_of("llama")),
    "pooler drawn anew": lambda: (model_of("bert").bert, other_pooler()),
    "embeddings": lambda: (peft(modules_to_save=["embed_tokens", "lm_head"]), model_of("llama")),
    "tokens": lambda: (peft(trainable_token_indices=[3, 4]), model_of("llama")),
    "patches": lambda: (peft("vit", target_modules=["q_proj", "projection"]), model_of("vit")),
    "biases": lambda: (peft("bert", target_modules=["classifier"], bias="all"), model_of("bert")),
    "another method": lambda: (rotated(), model_of("llama")),
}


@pytest.mark.parametrize("name", SAME)
def test_a_base_is_the_same_however_it_was_loaded_or_prepared(name):
    one, other = SAME[name]()
    assert apart(one, other) is None
    assert apart(other, one) is None


def test_what_was_computed_in_another_type_is_the_same_base():
    assert apart(computed(torch.float32), computed(torch.float32)) is None
    one = computed(torch.float32)
    nearly = copy.deepcopy(one)
    with torch.no_grad():
        for parameter in nearly.parameters():
            parameter.mul_(1 + 2**-23)
    assert apart(one, nearly) is None
    assert apart(one, computed(torch.float32).bfloat16()) is None
    assert apart(one, computed(torch.bfloat16)) is None
    assert apart(computed(torch.bfloat16), one) is None


def changed(kind, part):
    """A model that has other numbers in one of its parameters, but for its first column."""
    model = model_of(kind)
    parameter = dict(model.named_parameters())[part]
    with torch.no_grad():
        (parameter[:, 1:] if parameter.dim() > 1 else parameter).normal_()
    return model


PARTS = {
    "bert": ["bert.embeddings.position_embeddings.weight", "bert.encoder.layer.1.attention.self.key.weight",
             "bert.encoder.layer.0.output.LayerNorm.bias", "bert.pooler.dense.weight"],
    "llama": ["model.norm.weight", "lm_head.weight", "model.embed_tokens.weight",
              "model.layers.1.mlp.down_proj.weight"],
    "vit": ["vit.embeddings.position_embeddings", "vit.layernorm.weight"],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "part"), [(kind, part) for kind, parts in PARTS.items() for part in parts])
def test_another_base_in_one_part(kind, part):
    assert "holds other numbers" in apart(model_of(kind), changed(kind, part))
    assert apart(model_of(kind), changed(kind, part), trained=[part]) is None  # the adapter's own takes its place


def test_a_head_is_not_of_the_base():
    assert apart(model_of("bert"), changed("bert", "classifier.weight")) is None


def test_adapters_that_were_merged_into_it_make_another_base():
    tuned = computed(torch.float32)
    assert "other numbers" in apart(with_adapters(tuned, "lora").get_base_model(), model_of("llama"))


def test_every_element_of_a_wide_layer_may_be_looked_at():
    one, other = (tiny_model(hidden=64) for _ in range(2))
    with torch.no_grad():
        other.bert.encoder.layer[0].attention.self.query.weight[:, 1:].normal_()
    assert "query" in apart(one, other)


def test_a_decoder_alone_is_described():
    sizes = {"d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16}
    decoder = BartForCausalLM(BartConfig(vocab_size=50, **sizes))
    assert apart(decoder, copy.deepcopy(decoder)) is None


@pytest.mark.parametrize(
    "damage",
    [{"sizes": None}, {"sizes": 5}, {"class": None}, {"numbers": 5}, {"numbers": {"a": [None]}}, {"numbers": [1]}],
)
def test_a_damaged_description(damage):
    whole = description_of(tiny_model())
    assert is_description(whole)
    assert not is_description({**whole, **damage})
    assert not is_description([whole])
