"""Rows that a language model learns to write: texts, and prompts with completions, as tokens."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from meft_runner.backbones.answers import IGNORED
from meft_runner.tasks.data import Row
from meft_runner.tasks.rows import check_columns, check_filled

_BEFORE = ("\n", ":")  # what no token joins with what follows, the one or the other
COLUMNS = {"lm": ("text",), "instruct": ("prompt", "completion"), "chat": ("messages",)}  # by what is typed as task=


@dataclass(frozen=True)
class Tokens:
    """A row as tokens.

    Attributes:
        ids: what the model reads.
        learnt: for each of them, whether it is learnt.
    """

    ids: list[int]
    learnt: list[bool]

    def labels(self, length: int) -> list[int]:
        """Returns the labels of the first `length` tokens; the first has none, since nothing before it predicts it."""
        pairs = zip(self.ids[1:length], self.learnt[1:length], strict=True)
        return [IGNORED, *(token if learnt else IGNORED for token, learnt in pairs)]


class Form(Protocol):
    """What a kind of rows is, and how it becomes tokens."""

    learns: str  # in words

    @property
    def notes(self) -> Sequence[str]:
        """What there is to say of the rows that were read."""

    def read(self, row: Row, where: str) -> Row:
        """Returns what is read of a row.

        Raises:
            UserError: it is not as it must be; `where` is its place.
        """

    def encode(self, row: Row, where: str) -> list[Tokens]:
        """Returns the rows of tokens that a row becomes.

        Raises:
            UserError: its answers cannot be found among its tokens.
        """


class AnswerForm(Form, Protocol):
    """A kind of rows that have answers."""

    def question(self, row: Row, where: str) -> tuple[list[int], str]:
        """Returns the tokens before a row's last answer, and that answer as its tokens would be read."""

    def ends(self, row: Row, where: str) -> list[int]:
        """Returns the tokens that end an answer besides the tokenizer's own."""


class Texts:
    """Texts, all of whose tokens are learnt, and then the end of the sequence."""

    learns = "all tokens"
    notes: Sequence[str] = ()

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def read(self, row: Row, where: str) -> Row:
        """Returns the text."""
        return filled(row, COLUMNS["lm"], where)

    def encode(self, row: Row, where: str) -> list[Tokens]:
        """Returns the text's tokens."""
        ids = [*text_tokens(self.tokenizer, row["text"]), *end_tokens(self.tokenizer)]
        return [Tokens(ids, [True] * len(ids))]


class Completions:
    """Prompts with completions, which are learnt with the end of the sequence; nothing is put between the two."""

    learns = "the completions"
    notes: Sequence[str] = ()

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def read(self, row: Row, where: str) -> Row:
        """Returns prompt and completion."""
        return filled(row, COLUMNS["instruct"], where)

    def encode(self, row: Row, where: str) -> list[Tokens]:
        """Returns the tokens of both.

        The prompt's are those that it has by itself, as when a model is asked to complete it; the completion's are
        those that follow them in both together, or its own where a token would span the two.
        """
        prompt = text_tokens(self.tokenizer, row["prompt"])
        answer = text_tokens(self.tokenizer, row["prompt"] + row["completion"])
        if len(answer) > len(prompt) and answer[: len(prompt)] == prompt:
            answer = answer[len(prompt) :]
        else:
            answer = [token for token, *_ in placed(self.tokenizer, row["completion"], follows=True)]
        answer = [*answer, *end_tokens(self.tokenizer)]
        return [Tokens(prompt + answer, [False] * len(prompt) + [True] * len(answer))]

    def question(self, row: Row, where: str) -> tuple[list[int], str]:
        """Returns the prompt's tokens and the completion."""
        (tokens,) = self.encode(row, where)
        answer = tokens.ids[tokens.learnt.index(True) :]
        return tokens.ids[: -len(answer)], answer_text(self.tokenizer, answer)

    def ends(self, row: Row, where: str) -> list[int]:
        """Returns none."""
        return []


def filled(row: Row, columns: tuple[str, ...], where: str) -> Row:
    """Returns some columns of a row.

    Raises:
        UserError: one of them is missing, is not text, or is empty.
    """
    check_columns(row, columns, where)
    for column in columns:
        check_filled(row[column], column, where)
    return {column: row[column] for column in columns}


def text_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Returns a text's tokens, begun as the tokenizer begins a sequence, once at the most, and not ended."""
    ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    while begin is not None and ids[:2] == [begin, begin]:  # the text has one of its own
        ids = ids[1:]
    while len(ids) > 1 and ids[-1] == end:
        ids = ids[:-1]
    return ids


def placed(tokenizer: PreTrainedTokenizerBase, text: str, follows: bool) -> list[tuple[int, int, int]]:
    """Returns a text's tokens, each with the places where it begins and ends there.

    Args:
        tokenizer: without one that is fast, the places are not known, and stand at -1.
        text: what is read, without marks of a beginning and an end.
        follows: whether another text goes before it, so that it does not begin with the blank that tokenizers of
            SentencePiece's kind put before a text.
    """
    how = {"add_special_tokens": False, "verbose": False}
    for before in (*(_BEFORE if follows else ()), ""):
        skipped = tokenizer(before, **how)["input_ids"] if before else []
        found = tokenizer(before + text, return_offsets_mapping=tokenizer.is_fast, **how)
        if found["input_ids"][: len(skipped)] == skipped and tokenizer.unk_token_id not in skipped:
            break
    shift, spans = len(before), found.get("offset_mapping", [(-1, -1)] * len(found["input_ids"]))
    tokens = zip(found["input_ids"], spans, strict=True)
    return [(token, first - shift, last - shift) for token, (first, last) in tokens][len(skipped) :]


def answer_text(tokenizer: PreTrainedTokenizerBase, ids: list[int], ends: Collection[int] = ()) -> str:
    """Returns an answer's tokens as text, as generated ones are read: up to its end, without special tokens."""
    before = takewhile(lambda token: token not in ends and token != tokenizer.eos_token_id, ids)
    return str(tokenizer.decode(list(before), skip_special_tokens=True))


def end_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Returns the token that ends a sequence, in a list, which is empty where the tokenizer has none."""
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
