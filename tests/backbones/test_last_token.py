"""Classification by the last token's state, whatever number the token has, and pairs of texts that are told apart."""

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSequenceClassification

from meft_runner.backbones.pairs import separate_pairs
from meft_runner.config import Head
from tests.helpers.folders import plain_tokenizer
from tests.helpers.models import family_of, tiny_config

KINDS = ["llama", "mistral", "qwen2", "qwen3"]
LENGTHS = (9, 5, 1)


def classifiers(kind, pad=1):
    """Ours and transformers' own with the same weights."""
    config = tiny_config(kind)
    config.pad_token_id, config.problem_type = pad, "single_label_classification"
    torch.manual_seed(0)
    theirs = AutoModelForSequenceClassification.from_config(config).eval()
    ours = family_of(kind).heads[Head.classification](config)
    ours.load_state_dict(theirs.state_dict())
    return ours.eval(), theirs


def padded(texts, side, pad):
    """Rows of several lengths in one tensor, with their mask."""
    ids, mask = torch.full((len(texts), 9), pad), torch.zeros(len(texts), 9, dtype=torch.long)
    for row, text in enumerate(texts):
        place = slice(0, len(text)) if side == "right" else slice(9 - len(text), None)
        ids[row, place], mask[row, place] = text, 1
    return ids, mask


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_a_token_for_padding_classifies_as_in_transformers(kind, side):
    ours, theirs = classifiers(kind)
    ids, mask = padded([torch.randint(5, 100, (length,)) for length in LENGTHS], side, pad=1)
    labels = torch.tensor([0, 1, 1])
    found = ours(ids, mask, labels)
    expected = theirs(input_ids=ids, attention_mask=mask, labels=labels)
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.loss, expected.loss)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_last_word_that_also_fills_rows_up_is_read(kind, side):
    """Each row by itself, without padding and so without doubt, is the reference."""
    ours, theirs = classifiers(kind, pad=0)
    texts = [torch.randint(5, 100, (length,)) for length in LENGTHS]
    for text in texts:
        text[-1] = 0
    theirs.config.pad_token_id = None
    expected = torch.cat([theirs(text[None]).logits for text in texts])
    torch.testing.assert_close(ours(*padded(texts, side, pad=0)).logits, expected)


def test_without_a_mask_every_row_is_whole():
    ours, theirs = classifiers("llama")
    ids = torch.randint(5, 100, (3, 7))
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits)


def test_the_last_norm_is_given_what_is_read_alone():
    """Its float32 tensors of whole rows would be more than a reversible layer needs."""
    ours, _ = classifiers("llama")
    seen = []
    ours.model.norm.register_forward_hook(lambda _, given, output: seen.append((given[0].shape, output.shape)))
    ours(*padded([torch.randint(5, 100, (length,)) for length in LENGTHS], "left", pad=1))
    assert seen == [((3, 64), (3, 64))]


def test_texts_of_a_pair_are_told_apart():
    tokenizer = plain_tokenizer(eos_token="</s>")
    single = tokenizer("a b")["input_ids"]
    assert tokenizer("ab", "c") == tokenizer("a", "bc")  # what this is about
    separate_pairs(tokenizer, None)
    assert tokenizer.convert_ids_to_tokens(tokenizer("ab", "c")["input_ids"]) == ["a", "b", "</s>", "c"]
    assert tokenizer("a b")["input_ids"] == single
    assert tokenizer("ab", "c", add_special_tokens=False)["input_ids"] == tokenizer("abc")["input_ids"]
    again = tokenizer("ab", "c")["input_ids"]
    separate_pairs(tokenizer, None)
    assert tokenizer("ab", "c")["input_ids"] == again


@pytest.mark.parametrize(
    ("between", "expected"), [("", "<s> a b </s> c"), ("</s> ", "<s> a b </s> c"), ("<s> ", "<s> a b <s> c")]
)
def test_a_beginning_that_a_tokenizer_marks_stays(between, expected):
    tokenizer = plain_tokenizer(eos_token="</s>", bos_token="<s>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair=f"<s> $A {between}$B", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    separate_pairs(tokenizer, None)
    assert tokenizer.convert_ids_to_tokens(tokenizer("ab", "c")["input_ids"]) == expected.split()
    assert tokenizer.convert_ids_to_tokens(tokenizer("ab")["input_ids"]) == ["<s>", "a", "b"]


def test_a_tokenizer_without_an_end_is_left_alone():
    tokenizer = plain_tokenizer()
    separate_pairs(tokenizer, None)
    assert len(tokenizer("ab", "c")["input_ids"]) == 3
