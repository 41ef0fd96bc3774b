"""What is DeBERTa's own: its published files, its tokenizer, and what a reversible stack cannot do."""

import io
import json

import pytest
import sentencepiece
import torch
from transformers import DebertaV2ForMaskedLM, DebertaV2ForSequenceClassification

from meft_runner.backbones import processors
from meft_runner.backbones.loading import load_model
from meft_runner.backbones.processors import load_tokenizer
from meft_runner.backbones.sources import find_source
from meft_runner.config import Attention, BackboneSettings, Head
from meft_runner.errors import UserError
from tests.helpers.models import batch, meft_settings, peft_settings, prepared, tiny_config

WORDS = ("old", "new", "small", "tall")


def settings(folder, attention=Attention.eager):
    return BackboneSettings("deberta_v3_base", ["deberta-v2"], hub="nobody/tiny", path=str(folder), attention=attention)


@pytest.fixture
def folder(tmp_path):
    """A folder like the published ones: half precision, a pickled file, pre-training's heads, a SentencePiece model."""
    config = tiny_config("deberta")
    config.legacy = False
    model = DebertaV2ForMaskedLM(config).half()
    config.save_pretrained(tmp_path)
    weights = {**model.state_dict(), "mask_predictions.dense.weight": torch.zeros(64, 64, dtype=torch.float16)}
    torch.save(weights, tmp_path / "pytorch_model.bin")
    lines = [f"the {word} house has {number} green windows" for number in range(40) for word in WORDS]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=written, vocab_size=60, hard_vocab_limit=False, minloglevel=2,
        pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]",
        unk_piece="[UNK]",
    )  # fmt: skip
    (tmp_path / "spm.model").write_bytes(written.getvalue())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, "vocab_type": "spm"}))
    return tmp_path


@pytest.mark.parametrize("head", [Head.classification, Head.span])
def test_published_weights_are_read_in_single_precision(folder, head):
    backbone = settings(folder)
    loaded = load_model(backbone, find_source(backbone), head, 3)
    published = torch.load(folder / "pytorch_model.bin")
    for name, value in loaded.deberta.state_dict(prefix="deberta.").items():
        assert torch.equal(value, published[name].float())


@pytest.mark.parametrize(("changed", "told"), [
    ({"pooler_hidden_size": 32}, "pooler_hidden_size=32, expected 64"),
    ({"pooler_hidden_act": "nope"}, "pooler_hidden_act=nope, which transformers does not know"),
], ids=["size", "activation"])  # fmt: skip
def test_a_pooler_that_cannot_be_computed_is_told_before(folder, changed, told):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | changed))
    backbone = settings(folder)
    with pytest.raises(UserError, match=f"config.json has {told}"):
        load_model(backbone, find_source(backbone), Head.classification, 3)


def test_no_fused_kernel_is_given_to_its_attention(folder):
    backbone = settings(folder, Attention.sdpa)
    with pytest.raises(UserError, match=r"^backbone.attention=sdpa: no fused kernel .* of deberta-v2. Take eager.$"):
        load_model(backbone, find_source(backbone), Head.classification, 3)


def test_the_tokenizer_marks_pairs(folder):
    backbone = settings(folder)
    tokenizer = load_tokenizer(backbone, find_source(backbone), 32)
    encoded = tokenizer("the old house", "the new windows")
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    assert encoded.keys() == {"input_ids", "attention_mask"}
    assert (tokens[0], tokens.count("[SEP]"), tokens[-1]) == ("[CLS]", 2, "[SEP]")
    assert tokenizer.decode(encoded["input_ids"], skip_special_tokens=True) == "the old house the new windows"
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id) == (0, 3)


def test_without_the_packages_that_read_its_tokenizer_they_are_named(folder, monkeypatch):
    monkeypatch.setattr(processors, "is_sentencepiece_available", lambda: False)
    backbone = settings(folder)
    with pytest.raises(UserError, match=r"its tokenizer, spm.model, needs .*pip install meft-runner\[sentencepiece\]"):
        load_tokenizer(backbone, find_source(backbone), 32)


@pytest.mark.parametrize(
    "method", [peft_settings("lora"), meft_settings("meft1", frozen_layers=1)], ids=["lora", "meft1"]
)
def test_a_model_that_computes_between_its_layers_is_not_reversed(method):
    config = tiny_config("deberta")
    config.conv_kernel_size = 3  # of DeBERTa-v2's xlarge and xxlarge: behind the first layer
    model = DebertaV2ForSequenceClassification(config)
    with pytest.raises(UserError, match=r"^method.* tiny has conv_kernel_size=3, .*. Take method=lora without") as told:
        prepared(method, "deberta", model=model)
    assert "\n" not in str(told.value)


def test_it_trains_without_reversal():
    config = tiny_config("deberta")
    config.conv_kernel_size = 3
    model = prepared(peft_settings("lora", "off"), "deberta", model=DebertaV2ForSequenceClassification(config))
    model(**batch("deberta")).loss.backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_queries_in_single_precision_do_not_break_autocast(dtype):
    """VeRA returns them so, and packed weights do; the scores that are masked are in half precision."""
    model = prepared(peft_settings("vera", "off"), "deberta")
    with torch.autocast("cpu", dtype=dtype):
        loss = model(**batch("deberta")).loss
    assert loss.isfinite()
