import pytest
from tokenizers import SentencePieceBPETokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from meft_runner.errors import UserError
from meft_runner.tasks.language_forms import Completions, Texts, text_tokens
from tests.helpers.folders import byte_tokenizer

BOS, EOS = 0, 2


@pytest.fixture
def tokenizer():
    return byte_tokenizer()  # puts <s> before a text and </s> after it


def learnt(tokens, tokenizer):
    return tokenizer.decode([token for token, each in zip(tokens.ids, tokens.learnt, strict=True) if each])


def test_every_token_of_a_text_is_learnt_but_the_first_which_nothing_predicts(tokenizer):
    (tokens,) = Texts(tokenizer).encode({"text": "It rains."}, "")
    assert tokenizer.decode(tokens.ids) == "<s>It rains.</s>"
    assert tokens.labels(len(tokens.ids)) == [-100, *tokens.ids[1:]]
    assert tokens.labels(4) == [-100, *tokens.ids[1:4]]


def test_a_text_begins_and_ends_once_whatever_it_holds(tokenizer):
    assert text_tokens(tokenizer, "<s>a") == [BOS, *tokenizer("a", add_special_tokens=False)["input_ids"]]
    (tokens,) = Texts(tokenizer).encode({"text": "<s>a</s>"}, "")
    assert (tokens.ids.count(BOS), tokens.ids.count(EOS)) == (1, 1)


@pytest.mark.parametrize(("prompt", "completion"), [("2 + 2 =", " 4"), ("Answer: ", "Paris"), ("a", "b")])
def test_of_a_completion_all_tokens_and_the_end_are_learnt_and_none_of_the_prompt(prompt, completion, tokenizer):
    (tokens,) = Completions(tokenizer).encode({"prompt": prompt, "completion": completion}, "")
    assert tokenizer.decode(tokens.ids) == f"<s>{prompt}{completion}</s>"
    assert learnt(tokens, tokenizer) == f"{completion}</s>"


def test_a_prompt_has_the_tokens_that_it_has_by_itself_where_one_token_would_span_both(tokenizer):
    class Merging:
        """Reads "ab" as one token."""

        bos_token_id, eos_token_id, unk_token_id, is_fast = None, 9, None, False

        def __call__(self, text, **how):
            return {"input_ids": [3 if part == "ab" else ord(part) for part in ([text] if text == "ab" else text)]}

        def decode(self, ids, skip_special_tokens):
            return "".join(map(chr, ids))

    (tokens,) = Completions(Merging()).encode({"prompt": "a", "completion": "b"}, "")
    assert (tokens.ids, tokens.learnt) == ([ord("a"), ord("b"), 9], [False, True, True])
    assert Completions(Merging()).question({"prompt": "a", "completion": "b"}, "") == ([ord("a")], "b")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"prompt": "a", "completion": ""}, "row 1: column 'completion' is empty"),
        ({"prompt": "a", "completion": " \n"}, "row 1: column 'completion' is empty"),
        ({"prompt": 3, "completion": "a"}, "row 1: column 'prompt' is 3, expected text"),
        ({"prompt": None, "completion": "a"}, "row 1: column 'prompt' is None, expected text"),
        ({"prompt": "a", "answer": "b"}, r"row 1: column 'completion' is missing \(found: prompt, answer\)"),
    ],
)
def test_rows_that_are_no_prompts_with_completions(row, complaint, tokenizer):
    with pytest.raises(UserError, match=complaint):
        Completions(tokenizer).read(row, "row 1")


@pytest.mark.parametrize("text", [3, None, ["a"], "", "\ud800"])
def test_texts_are_texts(text, tokenizer):
    with pytest.raises(UserError, match="row 1: column 'text' is"):
        Texts(tokenizer).read({"text": text}, "row 1")


@pytest.mark.parametrize("scheme", ["always", "first"])
def test_no_blank_is_put_between_prompt_and_completion_where_a_token_would_span_both(scheme):
    bpe = SentencePieceBPETokenizer()
    bpe.train_from_iterator(["Say Paris", "Say:", "f(x)", "\n"] * 9, vocab_size=60, special_tokens=["</s>", "<unk>"])
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="</s>")
    for prompt, completion in (("Say ", "Paris"), ("f", "(x)")):
        spanned = tokenizer(prompt)["input_ids"]
        assert tokenizer(prompt + completion)["input_ids"][: len(spanned)] != spanned
        (tokens,) = Completions(tokenizer).encode({"prompt": prompt, "completion": completion}, "row 1")
        assert tokenizer.decode(tokens.ids) == f"{prompt}{completion}</s>"
        assert learnt(tokens, tokenizer) == f"{completion}</s>"
