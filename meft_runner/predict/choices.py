"""Questions with several answers, of which a language model finds one the likeliest."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from transformers import PreTrainedTokenizerBase

from meft_runner.config import ChoiceSettings
from meft_runner.errors import UserError
from meft_runner.predict.answering import Answering, Found
from meft_runner.tasks.choice import by_question, choice_rows, score_choices
from meft_runner.tasks.choice_forms import FORMS, Question
from meft_runner.tasks.data import Row
from meft_runner.tasks.language_rows import Placed
from meft_runner.tasks.packing import collate_tokens


def ask_choices(task: ChoiceSettings, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Placed]) -> Answering:
    """Returns each question with each of its answers as model inputs.

    Raises:
        UserError: a row is not as the task has them, has one answer alone, or is too long for the model.
    """
    questions = [FORMS[task.name](each.row, each.where, answered=False) for each in rows]
    for question, each in zip(questions, rows, strict=True):
        if len(question.choices) < 2:
            raise UserError(f"{each.where}: has {len(question.choices)} answers, expected two or more. Add others.")
    encoded = choice_rows(questions, [each.where for each in rows], tokenizer)
    order = np.array(encoded["row"])
    known = [number for number, question in enumerate(questions) if question.right is not None]

    def ranked(found: Found) -> list[np.ndarray]:
        values = np.empty(len(order))
        values[order] = found.outputs["log_likelihoods"]
        return by_question(questions, values)

    def scores(found: Found) -> dict[str, float]:
        values = ranked(found)
        return score_choices([questions[n] for n in known], np.concatenate([values[n] for n in known]))

    def answers(found: Found) -> list[Row]:
        return [_answer(question, values) for question, values in zip(questions, ranked(found), strict=True)]

    collate = partial(collate_tokens, tokenizer, task.max_length)
    return Answering(encoded.remove_columns(["row", "length"]), collate, answers, scores, len(known))


def _answer(question: Question, log_likelihoods: np.ndarray) -> Row:
    choice = int(log_likelihoods.argmax())
    return {"answer": question.choices[choice], "choice": choice, "log_likelihoods": log_likelihoods.tolist()}
