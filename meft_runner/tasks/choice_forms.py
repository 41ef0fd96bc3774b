"""Questions with several answers: each task's rows as prompts, the paper's (arXiv 2306.00477), with their answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from meft_runner.errors import UserError
from meft_runner.tasks.data import Row
from meft_runner.tasks.rows import check_columns, check_filled, check_text


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
