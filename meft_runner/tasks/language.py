"""Training on texts, on completions of prompts, and on conversations: rows become tokens, of which some are learnt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from meft_runner.backbones.answers import IGNORED
from meft_runner.config import (
    AnswerSettings,
    ChatSettings,
    Head,
    InstructSettings,
    LanguageSettings,
    TooLong,
)
from meft_runner.errors import UserError
from meft_runner.tasks.conversations import Conversations
from meft_runner.tasks.data import EvalSplit, Row, TaskData, by_length
from meft_runner.tasks.description import cut_note, describe
from meft_runner.tasks.language_forms import AnswerForm, Completions, Form, Texts
from meft_runner.tasks.language_rows import EVALUATION, TRAIN, Placed, find_rows
from meft_runner.tasks.language_scores import METRIC, exact_match, token_scores
from meft_runner.tasks.packing import collate_tokens, pack

_ENDLESS = "nothing that is learnt ends with the tokenizer's end-of-sequence token, where generation stops by itself"


@dataclass(frozen=True)
class Prepared:
    """A split as model inputs.

    Attributes:
        rows: each with `input_ids`, `labels` and `length`.
        kept: what they were made of.
        cut: how many were longer than the longest allowed.
        left_out: how many rows that has left nothing to learn of.
    """

    rows: list[Row]
    kept: list[Placed]
    cut: int
    left_out: int

    @property
    def counts(self) -> dict[str, int]:
        """What the record says of them."""
        learnt = sum(row["length"] - row["labels"].count(IGNORED) for row in self.rows)
        tokens = sum(row["length"] for row in self.rows)
        return {"tokens": tokens, "learnt_tokens": learnt, "cut": self.cut, "left_out": self.left_out}


def load(task: LanguageSettings, tokenizer: PreTrainedTokenizerBase) -> TaskData:
    """Reads, checks and tokenises a task's rows.

    Raises:
        UserError: rows are missing, unreachable or not as the task needs them, too long where that is refused, leave
            nothing to learn, or the tokenizer has no chat template.
    """
    form = form_of(task, tokenizer)
    found = find_rows(task, form.read)
    splits = {split: prepared(task, form, tokenizer, rows) for split, rows in found.splits.items()}
    for split, part in splits.items():
        _check_left(task, part, found.splits[split])
    train, development = splits[TRAIN], splits[EVALUATION]
    packed = pack(train.rows, task.max_length) if task.pack else None
    notes = [
        *([found.note] if found.note else []),
        *form.notes,
        *(note for split, part in splits.items() for note in notes_of(task, split, part)),
        *([f"{len(train.rows):,} rows of {TRAIN} are packed into {len(packed):,}"] if packed else []),
        *([] if _ends(train.rows, tokenizer) else [_ENDLESS]),
    ]
    description = describe(
        task, found.source, {split: [each.row for each in rows] for split, rows in found.splits.items()},
        revision=found.revision, labels=form.learns, notes=notes,
    )  # fmt: skip
    for split, part in splits.items():
        description["splits"][split] |= part.counts
    by_model = _answering(task, form, tokenizer, development.kept)
    rows = by_length(Dataset.from_list(development.rows))
    return TaskData(
        head=Head.lm,
        classes=(),
        train=Dataset.from_list(packed or train.rows),
        evaluation={EVALUATION: EvalSplit(rows, token_scores, by_model)},
        metric=METRIC,
        collate=partial(collate_tokens, tokenizer, task.max_length),
        description=description,
    )


def form_of(task: LanguageSettings, tokenizer: PreTrainedTokenizerBase) -> Form:
    """Returns what makes tokens of a task's rows.

    Raises:
        UserError: the tokenizer has no chat template, or the file of one cannot be read.
    """
    if isinstance(task, ChatSettings):
        return Conversations(task, tokenizer)
    return Completions(tokenizer) if isinstance(task, InstructSettings) else Texts(tokenizer)


def prepared(
    task: LanguageSettings, form: Form, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Placed]
) -> Prepared:
    """Returns rows as model inputs, long ones cut, without those in which nothing is left to learn.

    Raises:
        UserError: one is too long where that is refused.
    """
    inputs: list[Row] = []
    kept: list[Placed] = []
    cut = 0
    for each in rows:
        of_row = []
        for tokens in form.encode(each.row, each.where):
            length = len(tokens.ids)
            if length > task.max_length:
                _check_cut(task, tokenizer, each.where, length)
                length, cut = task.max_length, cut + 1
            labels = tokens.labels(length)
            if labels.count(IGNORED) < length:
                of_row.append({"input_ids": tokens.ids[:length], "labels": labels, "length": length})
        inputs += of_row
        kept += [each] if of_row else []
    return Prepared(inputs, kept, cut, len(rows) - len(kept))


def _check_left(task: LanguageSettings, part: Prepared, rows: Sequence[Placed]) -> None:
    if not part.rows:
        raise UserError(
            f"task.max_length={task.max_length}: nothing to learn is left of any of {len(rows)} rows, the first one at "
            f"{rows[0].where}. Raise it, or give longer texts."
        )


def notes_of(task: LanguageSettings, split: str, part: Prepared) -> list[str]:
    """Returns what is to be said of the rows of a split that are cut, left out, or have become several."""
    rows, notes = len(part.kept) + part.left_out, []
    if part.cut:
        notes.append(cut_note(split, part.cut, rows, task.max_length))
    if part.left_out:
        notes.append(f"{part.left_out:,} of {rows:,} rows of {split} left out: nothing to learn is left of them")
    if len(part.rows) > len(part.kept):
        what = "the chat template writes earlier answers differently"
        notes.append(f"{len(part.kept):,} rows of {split} have become {len(part.rows):,}: {what}")
    return notes


def _check_cut(task: LanguageSettings, tokenizer: PreTrainedTokenizerBase, where: str, length: int) -> None:
    """Makes sure that a row that is too long may be cut."""
    if task.too_long is TooLong.cut:
        return
    positions = tokenizer.model_max_length  # what the model reads, see load_tokenizer
    more = f"task.max_length={length} or " if length <= positions else ""
    raise UserError(
        f"{where}: has {length} tokens, more than the {task.max_length} of task.max_length, with "
        f"task.too_long=refuse. Shorten or remove that row, or train with {more}task.too_long=cut."
    )


def _ends(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tells whether the end of the sequence is learnt anywhere."""
    return any(tokenizer.eos_token_id in row["labels"] for row in rows)


def _answering(
    task: LanguageSettings, form: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Placed]
) -> Callable[..., dict[str, float]] | None:
    """Returns what scores a model's own answers; None where they are not asked for."""
    if not isinstance(task, AnswerSettings) or not task.generate:
        return None
    answers: AnswerForm = form
    questions = []
    for each in rows:
        prompt, expected = answers.question(each.row, each.where)
        if len(prompt) + task.max_new_tokens > tokenizer.model_max_length:
            raise UserError(
                f"task.max_new_tokens={task.max_new_tokens}: {each.where}: its {len(prompt)} tokens before the answer "
                f"leave no room for them, the model reads at most {tokenizer.model_max_length}. Lower it, or shorten "
                "that row."
            )
        questions.append((prompt, expected))
    ends = answers.ends(rows[0].row, rows[0].where)
    limit = task.max_new_tokens
    return partial(exact_match, tokenizer=tokenizer, questions=questions, max_new_tokens=limit, ends=ends)
