"""Five question-answering tasks for causal language models: the answer that the model finds likeliest.

Prompts are the paper's (arXiv 2306.00477); tokens and scores are those of lm-evaluation-harness, where
a question's answers are ranked by their summed log-likelihood (`acc`), or by that divided by the
answer's length in characters (`acc_norm`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import DataCollatorForTokenClassification, EvalPrediction, PreTrainedTokenizerBase

from meft_runner.backbones.answers import IGNORED
from meft_runner.config import ChoiceSettings, Head
from meft_runner.errors import UserError
from meft_runner.tasks.data import Batch, EvalSplit, Row, TaskData, by_length
from meft_runner.tasks.description import describe, with_cut
from meft_runner.tasks.language_forms import text_tokens
from meft_runner.tasks.rows import check_columns, check_filled, check_text, load_splits, place

_LOSE = ": their prompts lose their beginning. Rows that are scored are not cut"


@dataclass(frozen=True)
class Question:
    """A prompt with its possible answers.

    Attributes:
        prompt: what the model reads.
        choices: the answers; only the right one where the others are not known.
        right: the place of the right one; None where it is not known.
    """

    prompt: str
    choices: Sequence[str]
    right: int | None


def load(task: ChoiceSettings, tokenizer: PreTrainedTokenizerBase) -> TaskData:
    """Reads, checks and tokenises a task's questions.

    Raises:
        UserError: rows are missing, unreachable or not as the task needs them, or too long for the model.
    """
    form = FORMS[task.name]
    splits = load_splits(task, form)
    questions = {split: [form(row, split) for row in part] for split, part in splits.rows.items()}
    evaluation = {split: _eval_split(task, split, questions[split], tokenizer) for split in task.eval_splits}
    train, cut = _train_rows(task, questions[task.train_split], tokenizer)
    description = describe(task, splits.source, splits.rows, revision=splits.revision)
    return TaskData(
        head=Head.lm,
        classes=(),
        train=train,
        evaluation=evaluation,
        metric="acc",
        collate=partial(collate_choices, tokenizer, task.max_length),
        description=with_cut(
            description, dict.fromkeys(task.eval_splits, 0) | {task.train_split: cut}, task.max_length, _LOSE
        ),
    )


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> tuple[list[int], int]:
    """Tokenises a prompt, a space and an answer as lm-evaluation-harness does.

    Returns:
        All tokens, and how many of them are the prompt's: as many as it has by itself, without blanks at its end. The
        end that some tokenizers append is in neither: it would count as the answer's first token.
    """
    whole, alone = (text_tokens(tokenizer, text) for text in (f"{prompt} {answer}", prompt.rstrip()))
    return whole, len(alone)


def choice_rows(questions: Sequence[Question], places: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Returns each question with each of its answers as a row with `length`, longest first.

    Args:
        questions: to be ranked.
        places: what errors call them.
        tokenizer: the backbone's.

    Returns:
        Model inputs; `row` counts the answers in the order of the questions.

    Raises:
        UserError: a question is too long for the model.
    """
    encoded: list[Row] = []
    for question, where in zip(questions, places, strict=True):
        for choice in question.choices:
            tokens, prompt = encode(tokenizer, question.prompt, choice)
            _check_length(len(tokens), tokenizer, where)
            encoded.append({"row": len(encoded), **_model_inputs(tokens, prompt)})
    return by_length(Dataset.from_list(encoded))


def by_question(questions: Sequence[Question], log_likelihoods: np.ndarray) -> list[np.ndarray]:
    """Returns the log-likelihoods of each question's answers, of all of them in a row, question by question."""
    ends = np.cumsum([len(question.choices) for question in questions])[:-1]
    return np.split(log_likelihoods, ends)


def score_choices(questions: Sequence[Question], log_likelihoods: np.ndarray) -> dict[str, float]:
    """Scores ranked answers.

    Args:
        questions: Q questions, whose right answers are known.
        log_likelihoods: (sum of their numbers of choices,), question by question.

    Returns:
        `acc` and `acc_norm` as fractions, each with the standard error of the mean.
    """
    hits: dict[str, list[bool]] = {"acc": [], "acc_norm": []}
    for question, values in zip(questions, by_question(questions, log_likelihoods), strict=True):
        lengths = np.array([len(choice) for choice in question.choices])
        hits["acc"].append(bool(values.argmax() == question.right))
        hits["acc_norm"].append(bool((values / lengths).argmax() == question.right))
    scores = {}
    for name, found in hits.items():
        scores[name] = float(np.mean(found))
        scores[f"{name}_stderr"] = float(np.std(found, ddof=1) / len(found) ** 0.5) if len(found) > 1 else float("nan")
    return scores


def _train_rows(
    task: ChoiceSettings, questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase
) -> tuple[Dataset, int]:
    """Returns each question with its right answer, and how many are cut.

    Long prompts lose their beginning, as training is for the answer.
    """
    encoded, all_cut = [], 0
    for number, question in enumerate(questions, start=1):
        assert question.right is not None  # FORMS refuse such rows in training
        tokens, prompt = encode(tokenizer, question.prompt, question.choices[question.right])
        where = place(task, task.train_split, number)
        _check_length(len(tokens), tokenizer, where)
        cut = max(0, len(tokens) - task.max_length)
        if cut >= prompt:
            raise UserError(f"task.max_length={task.max_length}: {where}: its answer alone is as long. Raise it.")
        encoded.append(_model_inputs(tokens[cut:], prompt - cut))
        all_cut += cut > 0
    return Dataset.from_list(encoded), all_cut


def _eval_split(
    task: ChoiceSettings, split: str, questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase
) -> EvalSplit:
    """Returns every question with each of its answers, longest first."""
    places = [place(task, split, number) for number in range(1, len(questions) + 1)]
    for question, where in zip(questions, places, strict=True):
        if len(question.choices) < 2:
            raise UserError(
                f"{where}: has no other answers than the right one, so that it can be trained on but not scored. "
                "Choose splits with answers by task.eval_splits=[...]."
            )
    rows = choice_rows(questions, places, tokenizer)
    return EvalSplit(rows, partial(_score, questions, np.array(rows["row"])))


def _score(questions: Sequence[Question], order: np.ndarray, prediction: EvalPrediction) -> dict[str, float]:
    log_likelihoods = np.empty(len(order))
    log_likelihoods[order] = prediction.predictions[0]
    return score_choices(questions, log_likelihoods)


def _model_inputs(tokens: list[int], prompt: int) -> Row:
    return {"input_ids": tokens, "labels": [IGNORED] * prompt + tokens[prompt:], "length": len(tokens)}


def collate_choices(
    tokenizer: PreTrainedTokenizerBase, max_length: int, rows: list[Row], to_maximum: bool = False
) -> Batch:
    """Makes a batch of prompts with answers."""
    padding: dict[str, Any] = {"padding": "max_length", "max_length": max_length} if to_maximum else {}
    return dict(DataCollatorForTokenClassification(tokenizer, label_pad_token_id=IGNORED, **padding)(rows))


def _check_length(tokens: int, tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    positions = tokenizer.model_max_length  # what the model reads, see load_tokenizer
    if tokens > positions:
        raise UserError(
            f"{where}: the prompt with its answer has {tokens} tokens, the model reads at most {positions}. "
            "Shorten or remove that row."
        )


def _openbookqa(row: Row, where: str, answered: bool = True) -> Question:
    return _labelled(row, "question_stem", "{}", where, answered)


def _arc(row: Row, where: str, answered: bool = True) -> Question:
    return _labelled(row, "question", "Question: {}\nAnswer:", where, answered)


def _piqa(row: Row, where: str, answered: bool = True) -> Question:
    check_columns(row, ["goal", "sol1", "sol2", *(["label"] if answered else [])], where)
    goal, *choices = (_text(row, column, where) for column in ("goal", "sol1", "sol2"))
    if not answered and row.get("label") in (None, -1):
        return Question(f"Question: {goal} Answer:", choices, None)
    if row["label"] not in (0, 1):
        raise UserError(f"{where}: label {row['label']!r} names no right answer; expected 0 = sol1 or 1 = sol2.")
    return Question(f"Question: {goal} Answer:", choices, int(row["label"]))


def _sciq(row: Row, where: str, answered: bool = True) -> Question:
    wrong = ["distractor1", "distractor2", "distractor3"]
    listed = not answered and "choices" in row  # SciQ's own columns give the right answer away
    check_columns(row, ["support", "question", *([] if listed else [*wrong, "correct_answer"])], where)
    support = "" if row["support"] is None else _text(row, "support", where, empty=True)
    if listed:
        question = _arc(row, where, answered)
        return replace(question, prompt=f"{support.lstrip()}\n{question.prompt}")
    known = [] if all(row[column] is None for column in wrong) else [_text(row, column, where) for column in wrong]
    prompt = f"{support.lstrip()}\nQuestion: {_text(row, 'question', where)}\nAnswer:"
    return Question(prompt, [*known, _text(row, "correct_answer", where)], len(known))


# What makes a question of a row at a place; with `answered=False` the right answer may be missing.
FORMS: dict[str, Callable[..., Question]] = {
    "openbookqa": _openbookqa,
    "piqa": _piqa,
    "arc_easy": _arc,
    "arc_challenge": _arc,
    "sciq": _sciq,
}


def _labelled(row: Row, column: str, prompt: str, where: str, answered: bool) -> Question:
    """Reads a row whose choices are labelled, by letters or by numbers."""
    check_columns(row, [column, "choices", *(["answerKey"] if answered else [])], where)
    choices = row["choices"]
    texts, labels = (choices.get(name) for name in ("text", "label")) if isinstance(choices, dict) else (None, None)
    if not isinstance(texts, list) or not isinstance(labels, list) or len(texts) != len(labels):
        raise UserError(f"{where}: choices is {choices!r}, expected {{text: [...], label: [...]}} of one length.")
    for text in texts:
        check_filled(text, "choices", where)
    if not answered and not row.get("answerKey"):
        return Question(prompt.format(_text(row, column, where)), texts, None)
    if labels.count(row["answerKey"]) != 1:
        raise UserError(
            f"{where}: answerKey {row['answerKey']!r} names no right answer among {', '.join(map(str, labels))}. "
            "Mend or remove that row."
        )
    return Question(prompt.format(_text(row, column, where)), texts, labels.index(row["answerKey"]))


def _text(row: Row, column: str, where: str, empty: bool = False) -> str:
    if empty:
        check_text(row[column], column, where)
    else:
        check_filled(row[column], column, where)
    return row[column]
