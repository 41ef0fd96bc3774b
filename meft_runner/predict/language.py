"""What a language model is asked: texts to rate, prompts to continue, conversations to answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import EvalPrediction, PreTrainedTokenizerBase

from meft_runner.config import AnswerSettings, ChatSettings, ChoiceSettings, InstructSettings, LanguageSettings
from meft_runner.errors import UserError
from meft_runner.predict.answering import Answering, Found, in_their_order, longest_first
from meft_runner.tasks.data import Row
from meft_runner.tasks.language import Prepared, form_of, notes_of, prepared
from meft_runner.tasks.language_forms import Form, filled, text_tokens
from meft_runner.tasks.language_rows import Placed
from meft_runner.tasks.language_scores import matches, token_scores
from meft_runner.tasks.packing import collate_tokens

USUAL_NEW_TOKENS = AnswerSettings.max_new_tokens  # where a run does not say how long what it generates may be
_SCORES = ("log_likelihoods", "tokens", "correct")


@dataclass(frozen=True)
class _Asked:
    """A row.

    Attributes:
        placed: what is scored of it, None where it has no text to score.
        prompt: tokens that are to be continued, None where nothing is.
        expected: the text that follows them, None where it is not known.
        ends: tokens that end it.
    """

    placed: Placed | None
    prompt: list[int] | None = None
    expected: str | None = None
    ends: Sequence[int] = ()


def ask_language(
    task: LanguageSettings, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Placed], form: Form, generating: bool
) -> Answering:
    """Returns rows as model inputs where they have texts to score, and as prompts where one is to be generated.

    Args:
        task: says how long rows are.
        tokenizer: the backbone's.
        rows: texts, prompts or conversations, whose answers may be missing.
        form: what makes tokens of them.
        generating: whether texts are wanted of rows that can be scored without.

    Raises:
        UserError: a row is not as the task has them, or leaves the model no room.
    """
    asked = [_read(task, form, tokenizer, each) for each in rows]
    if not generating:
        asked = [each if each.placed is None else replace(each, prompt=None) for each in asked]
    for each, row in zip(asked, rows, strict=True):
        if each.prompt is not None:
            check_room(each.prompt, tokenizer, row.where)
    labelled = [each.placed for each in asked if each.placed is not None]
    prompts = [each.prompt for each in asked if each.prompt is not None]
    part = prepared(task, form, tokenizer, labelled)
    inputs, order = longest_first(Dataset.from_list(part.rows)) if part.rows else (None, np.empty(0, dtype=int))

    def scores(found: Found) -> dict[str, float]:
        outputs: Any = tuple(np.array(found.outputs[name]) for name in _SCORES)
        prompted = [each for each in asked if each.prompt is not None]
        kept = {id(placed) for placed in part.kept}
        pairs = [
            (text, each.expected) for text, each in zip(found.generated, prompted, strict=True)
            if each.expected is not None and id(each.placed) in kept
        ]  # fmt: skip
        exact = matches([text for text, _ in pairs], [wanted for _, wanted in pairs]) if pairs else {}
        return token_scores(EvalPrediction(outputs, np.empty(0))) | exact

    def answers(found: Found) -> list[Row]:
        generated = iter(found.generated)
        rated = _rated(task, part, order, found)
        return [
            rated.get(id(each.placed), {}) | ({} if each.prompt is None else {"generated": next(generated)})
            for each in asked
        ]

    ends = next((each.ends for each in asked if each.prompt is not None), ())
    collate = partial(collate_tokens, tokenizer, task.max_length)
    notes = notes_of(task, rows[0].source, part)
    return Answering(inputs, collate, answers, scores, len(part.kept), prompts, ends, notes)


def prompt_tokens(
    task: LanguageSettings | ChoiceSettings, tokenizer: PreTrainedTokenizerBase, text: str
) -> tuple[list[int], Sequence[int]]:
    """Returns the tokens of a typed prompt, of a model that converses as a user's message, and what ends the answer.

    Raises:
        UserError: it leaves the model no room.
    """
    if isinstance(task, ChatSettings):
        placed = Placed({"messages": [{"role": "user", "content": text}]}, "prompt")
        asked = _read(task, form_of(task, tokenizer), tokenizer, placed)
        tokens, ends = asked.prompt or [], asked.ends
    else:
        tokens, ends = text_tokens(tokenizer, text), ()
    check_room(tokens, tokenizer, "prompt")
    return tokens, ends


def check_room(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Makes sure that a model can continue a prompt.

    Raises:
        UserError: it fills all that the model reads, or there is nothing to begin with.
    """
    most = tokenizer.model_max_length
    if not tokens:
        raise UserError(f"{where}: has no tokens, so there is nothing to continue. Give a text.")
    if len(tokens) >= most:
        raise UserError(
            f"{where}: has {len(tokens)} tokens, the model reads {most}, which leaves no room to go on. Shorten it."
        )


def _read(task: LanguageSettings, form: Any, tokenizer: PreTrainedTokenizerBase, each: Placed) -> _Asked:
    row, where = each.row, each.where
    if isinstance(task, ChatSettings):
        return _conversation(form, row, where)
    if isinstance(task, InstructSettings) and row.get("completion") is not None:
        placed = Placed(form.read(row, where), where)
        prompt, expected = form.question(placed.row, where)
        return _Asked(placed, prompt, expected)
    if not isinstance(task, InstructSettings) and row.get("text") is not None:
        return _Asked(Placed(form.read(row, where), where))
    if "prompt" not in row and not isinstance(task, InstructSettings):
        raise UserError(
            f"{where}: expected a column 'prompt' to continue or 'text' to rate (found: {', '.join(row)}). Rename one."
        )
    return _Asked(None, text_tokens(tokenizer, filled(row, ("prompt",), where)["prompt"]))


def _conversation(form: Any, row: Row, where: str) -> _Asked:
    messages: Any = row.get("messages")
    open_ended = bool(messages) and isinstance(messages, list) and _role(messages[-1]) == "user"
    if open_ended:  # what stands for the answer is not read
        row = row | {"messages": [*messages, {"role": "assistant", "content": "-"}]}
    placed = Placed(form.read(row, where), where)
    prompt, expected = form.question(placed.row, where)
    ends = form.ends(placed.row, where)
    return _Asked(None, prompt, None, ends) if open_ended else _Asked(placed, prompt, expected, ends)


def _role(message: object) -> object:
    return message.get("role") if isinstance(message, dict) else None


def _rated(task: LanguageSettings, part: Prepared, order: np.ndarray, found: Found) -> dict[int, Row]:
    """Returns how likely each text is, of a model of texts, by the id of its row."""
    if not part.rows or isinstance(task, AnswerSettings):
        return {}
    likelihoods, tokens = (in_their_order(order, found.outputs[name]) for name in _SCORES[:2])
    return {
        id(placed): {"log_likelihood": float(likelihood), "tokens": int(count), "loss": float(-likelihood / count)}
        for placed, likelihood, count in zip(part.kept, likelihoods, tokens, strict=True)
    }
