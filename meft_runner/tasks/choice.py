"""Five question-answering tasks for causal language models: the answer that the model finds likeliest.

Prompts are the paper's (arXiv 2306.00477); tokens and scores are those of lm-evaluation-harness, where
a question's answers are ranked by their summed log-likelihood (`acc`), or by that divided by the
answer's length in characters (`acc_norm`).
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
from datasets import Dataset
from transformers import EvalPrediction, PreTrainedTokenizerBase

from meft_runner.backbones.answers import IGNORED
from meft_runner.config import ChoiceSettings, Head
from meft_runner.errors import UserError
from meft_runner.tasks.choice_forms import FORMS, Question
from meft_runner.tasks.data import EvalSplit, Row, TaskData, by_length
from meft_runner.tasks.description import describe, with_cut
from meft_runner.tasks.language_forms import text_tokens
from meft_runner.tasks.packing import collate_tokens
from meft_runner.tasks.rows import load_splits, place

_LOSE = ": their prompts lose their beginning. Rows that are scored are not cut"


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
        collate=partial(collate_tokens, tokenizer, task.max_length),
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


def _check_length(tokens: int, tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    positions = tokenizer.model_max_length  # what the model reads, see load_tokenizer
    if tokens > positions:
        raise UserError(
            f"{where}: the prompt with its answer has {tokens} tokens, the model reads at most {positions}. "
            "Shorten or remove that row."
        )
