"""Questions whose answers are spans of a text."""

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax
from transformers import PreTrainedTokenizerBase

from meft_runner.config import SquadSettings
from meft_runner.errors import UserError
from meft_runner.predict.answering import Answering, Found, longest_first
from meft_runner.tasks.data import Row, padding_collator
from meft_runner.tasks.language_rows import Placed
from meft_runner.tasks.rows import check_texts
from meft_runner.tasks.squad import answers_are_in_place, are_answers, cut_windows
from meft_runner.tasks.squad_answers import SquadMetric, choose_answers, n_best_answers

_NONE: Row = {"text": [], "answer_start": []}


def ask_spans(task: SquadSettings, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Placed], where: str) -> Answering:
    """Returns questions with their contexts as windows.

    Args:
        task: limits of windows and answers.
        tokenizer: the backbone's.
        rows: with `question` and `context`; `id` and `answers` may be missing.
        where: what errors call all of them.

    Raises:
        UserError: a row is not as it must be, or a question fills its window.
    """
    asked = [_question(each, number) for number, each in enumerate(rows, start=1)]
    cut, found_windows = cut_windows(task, tokenizer, asked, where)
    inputs, order = longest_first(cut, drop=["start_positions", "end_positions"])
    windows = [found_windows[window] for window in order]
    contexts = [row["context"] for row in asked]
    known = [number for number, each in enumerate(rows) if is_known(task, each.row)]

    def chosen(found: Found) -> list[str]:
        return choose_answers(task, contexts, windows, found.outputs["start_logits"], found.outputs["end_logits"])

    def scores(found: Found) -> dict[str, float]:
        texts = chosen(found)
        golds = [asked[number]["answers"]["text"] for number in known]
        metric = SquadMetric(task.unanswerable)
        return metric.compute(predictions=[texts[number] for number in known], references=golds)

    def answers(found: Found) -> list[Row]:
        others = n_best_answers(task, contexts, windows, found.outputs["start_logits"], found.outputs["end_logits"])
        return [{"answer": text, "n_best": _shared(best)} for text, best in zip(chosen(found), others, strict=True)]

    return Answering(inputs, padding_collator(tokenizer, task.max_length), answers, scores, len(known))


def _question(placed: Placed, number: int) -> Row:
    row, where = placed.row, placed.where
    check_texts(row, ("question", "context"), where)
    answers = row.get("answers")
    if answers is not None and not are_answers(answers):
        raise UserError(
            f"{where}: column 'answers' is {answers!r:.100}, expected "
            '{"text": [...], "answer_start": [...]}. Mend it, or leave it out.'
        )
    return {**row, "id": row.get("id") or str(number), "answers": answers or _NONE}


def is_known(task: SquadSettings, row: Row) -> bool:
    """Tells whether a row's answers are known; in version 1, where each question has some, none hides them."""
    answers = row.get("answers")
    if answers is None or not (answers["text"] or task.unanswerable):
        return False
    return answers_are_in_place(row) or not task.skip_bad_rows


def _shared(best: Sequence[tuple[str, float]]) -> list[Row]:
    """Returns answers with their shares of the probability of all that are listed."""
    shares = softmax(np.array([score for _, score in best])).tolist() if best else []
    return [
        {"text": text, "score": score, "probability": share} for (text, score), share in zip(best, shares, strict=True)
    ]
