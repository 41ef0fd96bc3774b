"""Generation against a loop that reads every row anew for each token, one row at a time without padding."""

import pytest
import torch
from peft import PeftModel
from transformers import GenerationConfig

from meft_runner.backbones import UnsupportedInputError
from meft_runner.backbones.generation import generate
from meft_runner.config import FullSettings
from tests.helpers.folders import byte_tokenizer
from tests.helpers.models import batch, meft_settings, move_away, peft_settings, prepared, tiny_model

NEW = 12


@pytest.fixture(scope="module")
def tokenizer():
    made = byte_tokenizer()
    made.model_max_length = 60
    return made


def prompts(count=10):
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(3, 12, (count,), generator=generator)
    return [torch.randint(5, 100, (length,), generator=generator).tolist() for length in lengths]


def trained(method, kind):
    """A model whose trained parts are not where they start, which would hide them."""
    model = tiny_model(kind, layers=3)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(10)  # rows are told apart, and some tokens are much likelier than others
    return move_away(prepared(method, kind, model), 0.05)


def token_by_token(model, prompt, new_tokens, ends=(2,)):
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    ids = torch.tensor([prompt])
    with torch.no_grad():
        for _ in range(new_tokens):
            state = inner.base_model(ids, use_cache=False).last_hidden_state[:, -1]
            token = inner.get_output_embeddings()(state).argmax(-1)
            if token.item() in ends:
                break
            ids = torch.cat([ids, token[None]], dim=1)
    return ids[0, len(prompt) :].tolist()


METHODS = {
    "full": FullSettings(name="full", learning_rate=1e-3), "lora": peft_settings("lora", "off"),
    "lora reversed": peft_settings("lora", "exact"), "meft1": meft_settings("meft1", frozen_layers=1),
    "meft2": meft_settings("meft2"), "meft3": meft_settings("meft3", chunks=4),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "kind", ["opt-answers", *(pytest.param(f"{kind}-answers", marks=pytest.mark.slow) for kind in ("llama", "qwen3"))]
)
@pytest.mark.thin(2)
def test_the_tokens_are_those_of_a_loop_without_kept_keys(kind, method, tokenizer):
    model, asked = trained(METHODS[method], kind), prompts()
    found = generate(model, tokenizer, asked, NEW, batch_size=4)
    assert model.training
    model.eval()
    expected = [token_by_token(model, prompt, NEW) for prompt in asked]
    assert found == tokenizer.batch_decode(expected, skip_special_tokens=True)
    assert len({tuple(tokens) for tokens in expected}) > 5


def test_a_continuation_ends(tokenizer):
    model, asked = trained(METHODS["meft1"], "llama-answers"), prompts()
    model.generation_config = GenerationConfig(do_sample=True, temperature=5.0, eos_token_id=[21, 22])
    ends = (2, 17, 21, 22)
    found = generate(model, tokenizer, asked, NEW, ends=[17])
    model.eval()
    expected = [token_by_token(model, prompt, NEW, ends) for prompt in asked]
    assert found == tokenizer.batch_decode(expected, skip_special_tokens=True)
    assert model.generation_config.temperature == 5.0


def test_what_does_not_fit_into_the_model_is_not_generated(tokenizer):
    tokenizer.model_max_length, asked = 20, [[7] * 5, [8] * 15, [9] * 20, [10] * 18]
    model = trained(METHODS["meft3"], "opt-answers")
    found = generate(model, tokenizer, asked, NEW)
    tokenizer.model_max_length = 60
    model.eval()
    expected = [token_by_token(model, prompt, min(NEW, 20 - len(prompt))) for prompt in asked]
    assert found == tokenizer.batch_decode(expected, skip_special_tokens=True)


def test_keys_are_not_kept_where_gradients_are_asked_for():
    model = trained(METHODS["meft1"], "llama-answers")
    inputs = {name: value for name, value in batch("llama-answers").items() if name != "labels"}
    with pytest.raises(UnsupportedInputError, match="'past_key_values'"):
        model(**inputs, use_cache=True)
