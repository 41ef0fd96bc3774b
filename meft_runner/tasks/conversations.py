"""Conversations as tokens, through a tokenizer's chat template, and which of them the assistant has said.

Where the template marks what the assistant says (`{% generation %}`), the marks count. Where it does not, an answer is
what follows the rendering of all messages before it with the beginning of an answer, which is what a model reads when
it is asked; a template under which the one does not begin with the other is refused.
"""

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from meft_runner.config import ChatSettings
from meft_runner.config.language_tasks import PLAIN_TEMPLATE
from meft_runner.errors import UserError, first_line, listed, reason_of
from meft_runner.tasks.data import Row
from meft_runner.tasks.language_forms import COLUMNS, Tokens, answer_text, placed, text_tokens
from meft_runner.tasks.rows import check_columns, check_filled

Message = dict[str, str]
_READ = ("role", "content")  # of a message
_ROLES = ("system", "user", "assistant")
_MARKS = re.compile(r"\{%-?\s*generation\b")
_TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, KeyError, AttributeError)  # of whatever a template computes
_PLAIN = (  # a blank before a word is part of its token, so the one after the colon is the answer's
    "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_OTHER_TEMPLATE = "Set task.chat_template=FILE to another Jinja template"


class Conversations:
    """Conversations whose assistant is learnt, with what the template writes after its turns up to the end token.

    Args:
        task: names a template of the user's, if there is one.
        tokenizer: the backbone's.

    Raises:
        UserError: there is no chat template, or the file cannot be read.
    """

    learns = "what the assistant says"

    def __init__(self, task: ChatSettings, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.template = _template(task, tokenizer)
        self.unread: set[str] = set()  # keys of messages that hold something
        if not tokenizer.is_fast:
            raise UserError(
                "task=chat: this tokenizer cannot tell which characters a token stands for. Save its tokenizer.json "
                "into the backbone's folder, or take task=instruct."
            )

    def read(self, row: Row, where: str) -> Row:
        """Returns the messages."""
        check_columns(row, COLUMNS["chat"], where)
        (column,) = COLUMNS["chat"]
        messages = _messages(row[column], where)
        for message in messages:
            self.unread |= {str(key) for key, value in message.items() if key not in _READ and value is not None}
        return {column: [{key: message[key] for key in _READ} for message in messages]}

    def encode(self, row: Row, where: str) -> list[Tokens]:
        """Returns a conversation's tokens.

        They are several rows where the template writes an earlier answer otherwise than the last one, as those of
        models that think do: each answer is then learnt as it is written when it is the last.
        """
        if _MARKS.search(self.template):
            return [self._by_marks(row["messages"], where)]
        texts: list[tuple[str, list[tuple[int, int]]]] = []  # with the places of answers
        for place, message in enumerate(row["messages"]):
            if message["role"] != "assistant":
                continue
            before = self._rendered(row["messages"][:place], where, answer=True)
            whole = self._rendered(row["messages"][: place + 1], where)
            if not whole.startswith(before):
                raise UserError(
                    f"{where}, message {place + 1}: the chat template writes what comes before an answer differently "
                    f"when the answer follows. {_OTHER_TEMPLATE}, for instance with {{% generation %}} marks."
                )
            earlier = texts.pop()[1] if texts and whole.startswith(texts[-1][0]) else []
            texts.append((whole, [*earlier, (len(before), len(whole))]))
        return [self._by_places(text, places) for text, places in texts]

    @property
    def notes(self) -> Sequence[str]:
        """That the day changes what is learnt, where it does, and what was not read of messages."""
        dated = "the chat template writes today's date into conversations"
        unread = f"of messages only role and content are read, not {listed(sorted(self.unread))}"
        return [*([dated] if "strftime_now" in self.template else []), *([unread] if self.unread else [])]

    def question(self, row: Row, where: str) -> tuple[list[int], str]:
        """Returns the tokens before the last answer, and that answer with all that the template writes into it."""
        last = _last_answer(row["messages"])
        before = self._rendered(row["messages"][:last], where, answer=True)
        whole = self._rendered(row["messages"][: last + 1], where)
        written = whole.removeprefix(before) if whole.startswith(before) else row["messages"][last]["content"]
        return self._ids(before), answer_text(self.tokenizer, self._ids(written), self.ends(row, where))

    def ends(self, row: Row, where: str) -> list[int]:
        """Returns the token that the template writes after an answer, if it is one that no text has."""
        last = _last_answer(row["messages"])
        whole = self._rendered(row["messages"][: last + 1], where)
        _, content, after = whole.rpartition(row["messages"][last]["content"].strip())
        ids = self._ids(after)[:1] if content else []  # a template may write the content otherwise
        return [token for token in ids if token in self.tokenizer.added_tokens_decoder]

    def _by_marks(self, messages: list[Message], where: str) -> Tokens:
        found = self._applied(messages, where, return_dict=True, return_assistant_tokens_mask=True)
        if not any(found["assistant_masks"]):
            what = f"{where}: the chat template marks nothing that the assistant says by {{% generation %}}."
            raise UserError(f"{what} {_OTHER_TEMPLATE}.")
        return Tokens(found["input_ids"], [bool(mark) for mark in found["assistant_masks"]])

    def _by_places(self, text: str, places: list[tuple[int, int]]) -> Tokens:
        """Returns a text's tokens, of which those inside the places are learnt, up to the last end token in each.

        Where a token would span the beginning of an answer, what comes before has the tokens that it has by itself, as
        when a model is asked, and the answer those that it has after it.
        """
        whole = self._ids(text)
        spanned = [start for start, _ in places if whole[: len(before := self._ids(text[:start]))] != before]
        ids, spans = [], []
        for begin, stop in pairwise([0, *spanned, len(text)]):
            for token, first, last in placed(self.tokenizer, text[begin:stop], follows=begin > 0):
                ids.append(token)
                spans.append((begin + first, begin + last))
        learnt = [False] * len(ids)
        for start, end in places:
            inside = [n for n, (first, last) in enumerate(spans) if start <= first and last <= end]
            ends = [n for n in inside if ids[n] == self.tokenizer.eos_token_id]
            for n in inside:
                learnt[n] = not ends or n <= ends[-1]
        return Tokens(ids, learnt)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _rendered(self, messages: list[Message], where: str, answer: bool = False) -> str:
        return str(self._applied(messages, where, tokenize=False, add_generation_prompt=answer))

    def _applied(self, messages: list[Message], where: str, **how: Any) -> Any:
        try:
            return self.tokenizer.apply_chat_template(messages, chat_template=self.template, **how)
        except _TEMPLATE_ERRORS as error:
            what = f"{where}: the chat template does not take this conversation ({first_line(error):.150})."
            raise UserError(f"{what} Mend or remove that row. {_OTHER_TEMPLATE} if others fail too.") from error


def _template(task: ChatSettings, tokenizer: PreTrainedTokenizerBase) -> str:
    if task.chat_template == PLAIN_TEMPLATE:
        begins = text_tokens(tokenizer, "a")[0] == tokenizer.bos_token_id
        return ("{{ bos_token }}" if begins else "") + _PLAIN
    if task.chat_template is not None:
        try:
            template = Path(task.chat_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"task.chat_template={task.chat_template}: cannot be read ({reason_of(error)}). "
                "Give a file of a Jinja template."
            ) from error
        if not template.strip():
            raise UserError(f"task.chat_template={task.chat_template}: is empty. Give a file of a Jinja template.")
        return template
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:
        raise UserError(
            "task=chat: the backbone's tokenizer has no chat template. Set task.chat_template=plain for lines of "
            "'User: ...' and 'Assistant: ...', or =FILE to a Jinja template; or take task=instruct."
        ) from error


def _last_answer(messages: list[Message]) -> int:
    return max(place for place, message in enumerate(messages) if message["role"] == "assistant")


def _messages(value: Any, where: str) -> list[dict[str, Any]]:
    """Returns the messages of a row as they are there.

    Raises:
        UserError: one is not as it must be.
    """
    messages = _parsed(value) if isinstance(value, str) else value  # CSV and TSV have them as JSON in a cell
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{where}: messages is {value!r:.60}, expected a list of {{role, content}}. Mend that row.")
    before = None
    for number, message in enumerate(messages, start=1):
        _check_message(message, before, f"{where}, message {number}")
        before = message["role"]
    if not any(message["role"] == "assistant" for message in messages):
        raise UserError(f"{where}: has no message of the assistant, so there is nothing to learn. Remove that row.")
    return messages


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _check_message(message: Any, before: str | None, where: str) -> None:
    """Makes sure of one message, which comes after one of the role `before`."""
    if not isinstance(message, dict) or not {"role", "content"} <= set(message):
        raise UserError(f"{where}: is {message!r:.80}, expected role and content. Mend or remove that row.")
    role = message["role"]
    if role not in _ROLES:
        raise UserError(f"{where}: role {role!r:.40} is not known, expected {', '.join(_ROLES)}. Rename it.")
    fitting = {None: ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",)}[before]
    if role not in fitting:
        after = "comes first" if before is None else f"follows '{before}'"
        raise UserError(
            f"{where}: role '{role}' {after}, expected {' or '.join(fitting)}: user and assistant in turn, a system "
            "message before them at the most. Mend or remove that row."
        )
    check_filled(message["content"], "content", where)
