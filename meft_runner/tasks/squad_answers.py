"""From the logits of SQuAD's windows to answers, and from answers to the official scores."""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import evaluate
import numpy as np

from meft_runner.config import SquadSettings

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NO_SPAN = (-np.inf, slice(0))


@dataclass(frozen=True)
class Window:
    """The part of a context that stands in one model input.

    Attributes:
        question: number of the row that the window belongs to.
        positions: (T,) where the context's tokens stand in the input, those that cover no character left out.
        offsets: (T, 2) the first character of the context that each token covers, and the one behind its last.
    """

    question: int
    positions: np.ndarray
    offsets: np.ndarray


def choose_answers(
    task: SquadSettings,
    contexts: Sequence[str],
    windows: Iterable[Window],
    start_logits: Iterable[np.ndarray],
    end_logits: Iterable[np.ndarray],
) -> list[str]:
    """Chooses an answer to each question: the best span of all its windows, or none.

    A span's score is the sum of its start and end logits. No answer scores what the first token does
    as start and end, in the window where that is least: one window with a clear answer is enough.

    Args:
        task: limits of a span; with `unanswerable`, a question may get no answer.
        contexts: of the Q questions.
        windows: N of them, in the order of the logits.
        start_logits: N rows of (S,); what stands at a position that is no token of the window does not matter.
        end_logits: likewise.

    Returns:
        Q answers; empty where there is none.
    """
    best = [(-np.inf, "")] * len(contexts)
    null_scores = np.full(len(contexts), np.inf)
    for window, starts, ends in zip(windows, start_logits, end_logits, strict=True):
        question = window.question
        null_scores[question] = min(null_scores[question], starts[0] + ends[0])
        score, span = _best_span(task, window, starts, ends)
        if score > best[question][0]:
            best[question] = (score, contexts[question][span])
    if not task.unanswerable:
        return [text for _, text in best]
    return [
        "" if null_score - score > task.null_threshold else text
        for (score, text), null_score in zip(best, null_scores, strict=True)
    ]


def n_best_answers(
    task: SquadSettings,
    contexts: Sequence[str],
    windows: Iterable[Window],
    start_logits: Iterable[np.ndarray],
    end_logits: Iterable[np.ndarray],
) -> list[list[tuple[str, float]]]:
    """Returns each question's best answers that differ, at most `n_best` of them, with their scores, best first.

    With `unanswerable`, no answer is one of them, an empty text. The arguments are those of `choose_answers`.
    """
    found: list[dict[str, float]] = [{} for _ in contexts]
    null_scores = np.full(len(contexts), np.inf)
    for window, starts, ends in zip(windows, start_logits, end_logits, strict=True):
        question = window.question
        null_scores[question] = min(null_scores[question], starts[0] + ends[0])
        scores, spans = _spans(task, window, starts, ends)
        of_window: set[str] = set()
        for place in np.argsort(-scores, kind="stable"):
            text, score = contexts[question][spans(place)], float(scores[place])
            of_window.add(text)
            if len(of_window) > task.n_best or score == -np.inf:
                break
            found[question][text] = max(score, found[question].get(text, -np.inf))
    for null_score, texts in zip(null_scores, found, strict=True):
        if task.unanswerable:
            texts[""] = float(null_score)
    ranked = (sorted(texts.items(), key=lambda each: -each[1]) for texts in found)
    return [texts[: task.n_best] for texts in ranked]


def _best_span(
    task: SquadSettings, window: Window, start_logits: np.ndarray, end_logits: np.ndarray
) -> tuple[float, slice]:
    """Returns the score and the characters of a window's best span, with a score of -inf where it has none."""
    scores, spans = _spans(task, window, start_logits, end_logits)
    return (scores.max(), spans(scores.argmax())) if len(scores) else _NO_SPAN


def _spans(
    task: SquadSettings, window: Window, start_logits: np.ndarray, end_logits: np.ndarray
) -> tuple[np.ndarray, Callable[[Any], slice]]:
    """Returns the scores of a window's spans, (N,), -inf where one does not fit, and what finds a span's characters.

    They are those of the `n_best` best first and last tokens.
    """
    if not len(window.positions):
        return np.empty(0), lambda place: slice(0)
    starts = _n_best(start_logits[window.positions], task.n_best)[:, None]
    ends = _n_best(end_logits[window.positions], task.n_best)
    first, last = window.positions[starts], window.positions[ends]
    fits = (first <= last) & (last < first + task.max_answer_length)
    scores = np.where(fits, start_logits[first] + end_logits[last], -np.inf)

    def characters(place: Any) -> slice:
        start, end = np.unravel_index(place, scores.shape)
        return slice(window.offsets[starts[start, 0], 0], window.offsets[ends[end], 1])

    return scores.ravel(), characters


def _n_best(logits: np.ndarray, n: int) -> np.ndarray:
    return np.argsort(-logits, kind="stable")[:n]


class SquadMetric(evaluate.Metric):
    """Exact match and F1 as SQuAD's evaluation scripts compute them, as fractions, without the hub.

    Args:
        unanswerable: score as version 2 does, where a question may have no answer.
    """

    def __init__(self, unanswerable: bool) -> None:
        self.unanswerable = unanswerable
        super().__init__(config_name="squad_v2" if unanswerable else "squad", keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.__doc__ or "",
            citation="",
            features=datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        scores = [self._best_scores(*pair) for pair in zip(predictions, references, strict=True)]
        exact_match, f1 = np.mean(scores, axis=0)
        return {"exact_match": float(exact_match), "f1": float(f1)}

    def _best_scores(self, prediction: str, golds: Sequence[str]) -> tuple[float, float]:
        """Returns exact match and F1, each by the gold answer that it is best for."""
        answer, wanted = normalise(prediction), [normalise(gold) for gold in golds]
        if self.unanswerable:
            wanted = [gold for gold in wanted if gold] or [""]
        return max(float(answer == gold) for gold in wanted), max(self._f1(answer, gold) for gold in wanted)

    def _f1(self, answer: str, gold: str) -> float:
        words, gold_words = answer.split(), gold.split()
        if not words or not gold_words:
            return float(self.unanswerable and words == gold_words)  # version 1 gives nothing for two empty answers
        common = (Counter(words) & Counter(gold_words)).total()
        return 2 * common / (len(words) + len(gold_words))


def normalise(answer: str) -> str:
    """Returns an answer as the scores compare it: lower case, no punctuation or articles, single blanks."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())
