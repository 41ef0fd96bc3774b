"""Answers against a search of all spans, scores against a second implementation of the official scripts."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from meft_runner.config import SquadSettings
from meft_runner.tasks.squad_answers import SquadMetric, Window, choose_answers, n_best_answers, normalise
from tests.helpers.official_squad import evaluate_v1, evaluate_v2

CONTEXT = "The Café's owner, Zoë, paid $1,000 (a lot) in 東京. An hour later the U.S. team won 24—10."
GOLDS = [
    ["The Café's owner"],
    ["Zoë", "owner, Zoë", "Zoë, paid"],
    ["$1,000", "1,000"],
    ["東京"],
    ["An hour", "hour later", "An hour later"],
    ["the U.S. team", "U.S."],
    ["24—10", "24—10."],
    ["a"],  # nothing but an article: version 2 takes the question for unanswerable
    ["a", "lot"],
    ["the U.S. team won the", "the the"],
]
UNANSWERABLE = [[], []]
PREDICTIONS = {
    "gold": lambda row: next(iter(row["answers"]["text"]), ""),
    "last gold in other words": lambda row: "A  " + " ".join(row["answers"]["text"][-1:]).upper() + "!",
    "first sentence": lambda row: row["context"].partition(". ")[0],
    "empty": lambda row: "",
}


def rows_of(golds):
    return [{"id": str(i), "context": CONTEXT, "answers": {"text": texts}} for i, texts in enumerate(golds)]


def both_scores(rows, predict, unanswerable):
    """Ours and the reference's, as percentages."""
    predictions = {row["id"]: predict(row) for row in rows}
    ours = SquadMetric(unanswerable).compute(
        predictions=[predictions[row["id"]] for row in rows], references=[row["answers"]["text"] for row in rows]
    )
    official = (evaluate_v2 if unanswerable else evaluate_v1)(rows, predictions)
    return {name: 100 * value for name, value in ours.items()}, official


@pytest.mark.parametrize("predict", PREDICTIONS.values(), ids=PREDICTIONS)
@pytest.mark.parametrize("unanswerable", [False, True])
def test_scores_are_the_official_ones(predict, unanswerable):
    golds = GOLDS + UNANSWERABLE if unanswerable else GOLDS
    for rows in (rows_of(golds), *([row] for row in rows_of(golds))):
        ours, official = both_scores(rows, predict, unanswerable)
        assert ours == pytest.approx(official, abs=1e-9)


@pytest.mark.parametrize(
    ("answer", "golds", "unanswerable", "exact_match", "f1"),
    [
        ("the Denver Broncos!", ["Denver  broncos"], False, 1, 1),
        ("Denver", ["Denver Broncos", "Broncos"], False, 0, 2 / 3),
        ("a b b c", ["b b d"], False, 0, 2 * 2 / 6),  # words count as often as they occur
        ("U.S.", ["us"], False, 1, 1),
        ("24-10", ["24—10"], False, 0, 0),  # the long dash is no ASCII punctuation
        ("theatre", ["atre"], False, 0, 0),
        ("the", ["a"], False, 1, 0),  # version 1 finds no word in common
        ("the", ["a"], True, 1, 1),
        ("", [], True, 1, 1),
        ("Denver", [], True, 0, 0),
        ("", ["Denver"], True, 0, 0),
        ("", ["the", "Denver"], True, 0, 0),
    ],
)
def test_scores_by_hand(answer, golds, unanswerable, exact_match, f1):
    scores = SquadMetric(unanswerable).compute(predictions=[answer], references=[golds])
    assert scores == pytest.approx({"exact_match": exact_match, "f1": f1})


def test_normalise():
    assert normalise(" The  “Café's” an-owner,\na\tTHE anthem ") == "“cafés” anowner anthem"


def window(offsets, question=0, before=2):
    """A window whose context begins behind `before` other tokens."""
    return Window(question, np.arange(len(offsets)) + before, np.array(offsets).reshape(-1, 2))


def words(text):
    starts = [i for i, character in enumerate(text) if character != " " and (i == 0 or text[i - 1] == " ")]
    return [(start, start + len(text[start:].split()[0])) for start in starts]


def best_of_all_spans(context, window, starts, ends, longest):
    return max(all_spans(context, window, starts, ends, longest))


def all_spans(context, window, starts, ends, longest):
    return [
        (starts[p] + ends[q], context[window.offsets[i][0] : window.offsets[j][1]])
        for i, p in enumerate(window.positions)
        for j, q in enumerate(window.positions)
        if 0 <= j - i < longest
    ]


@pytest.mark.parametrize("longest", [1, 3, 30])
def test_the_best_span_of_all_windows_is_chosen(longest):
    numbers = np.random.default_rng(longest)
    texts = ["one two three four five six", "seven eight nine ten"]
    windows = [window(words(texts[0])[:4]), window(words(texts[1]), 1), window(words(texts[0])[2:], 0, before=4)]
    task = SquadSettings(max_answer_length=longest)
    for _ in range(50):
        starts, ends = numbers.normal(size=(2, len(windows), 10))
        inputs = zip(windows, starts, ends, strict=True)
        found = [best_of_all_spans(texts[w.question], w, *pair, longest) for w, *pair in inputs]
        expected = [max(found[0], found[2])[1], found[1][1]]
        assert choose_answers(task, texts, windows, starts, ends) == expected
        order = [2, 0, 1]
        shuffled = [windows[i] for i in order]
        assert choose_answers(task, texts, shuffled, starts[order], ends[order]) == expected


@pytest.mark.parametrize("unanswerable", [False, True])
def test_the_best_answers_of_all_windows_are_listed_once_each(unanswerable):
    numbers, text = np.random.default_rng(0), "one two one two three"
    windows = [window(words(text)[:3]), window(words(text)[1:])]
    task = SquadSettings(max_answer_length=2, n_best=6, unanswerable=unanswerable)
    for _ in range(50):
        starts, ends = numbers.normal(size=(2, len(windows), 10))
        best = {"": min(starts[:, 0] + ends[:, 0])} if unanswerable else {}
        for each in zip(windows, starts, ends, strict=True):
            for score, span in all_spans(text, *each, 2):
                best[span] = max(score, best.get(span, -np.inf))
        expected = sorted(best.items(), key=lambda pair: -pair[1])[:6]
        (found,) = n_best_answers(task, [text], windows, starts, ends)
        assert found == expected
        assert choose_answers(task, [text], windows, starts, ends)[0] == found[0][0]


@pytest.mark.parametrize("filling", [-100.0, 1e9, np.nan])
def test_what_stands_outside_the_context_does_not_matter(filling):
    text = "one two three"
    starts, ends = np.full((2, 1, 12), filling)
    starts[0, 2:5], ends[0, 2:5] = [0, 5, 0], [9, 0, 5]
    assert choose_answers(SquadSettings(), [text], [window(words(text))], starts, ends) == ["two three"]


def test_only_the_n_best_starts_and_ends_are_combined():
    text = "one two three"
    starts, ends = np.array([[0, 0, 3, 2, 9.0]]), np.array([[0, 0, 9, 3, 2.0]])
    chosen = [choose_answers(SquadSettings(n_best=n), [text], [window(words(text))], starts, ends) for n in (1, 2, 3)]
    assert chosen == [[""], ["one"], ["one"]]  # the best start stands behind the best end


def test_a_context_without_tokens_has_no_answer():
    zeros = np.zeros((1, 3))
    for unanswerable in (False, True):
        assert choose_answers(SquadSettings(unanswerable=unanswerable), [""], [window([])], zeros, zeros) == [""]


@pytest.mark.parametrize(
    ("null_scores", "threshold", "answer"),
    [
        ((5, 5), 0.0, "two"),  # the span scores 6
        ((7, 8), 0.0, ""),
        ((5, 8), 0.0, "two"),  # the least of the windows counts
        ((7, 8), 1.0, "two"),  # not more than the threshold
        ((7, 8), 0.9, ""),
        ((5, 5), -2.0, ""),
    ],
)
def test_no_answer_is_given_where_its_score_is_better_by_the_threshold(null_scores, threshold, answer):
    text = "one two three"
    windows = [window(words(text)[:2]), window(words(text)[1:])]
    starts = np.array([[null_scores[0], 0, 0, 3], [null_scores[1], 0, 1, 0]], dtype=float)
    ends = np.array([[0, 0, 0, 3], [0, 0, 1, 0]], dtype=float)
    task = SquadSettings(unanswerable=True, null_threshold=threshold)
    assert choose_answers(task, [text], windows, starts, ends) == [answer]
    assert choose_answers(SquadSettings(null_threshold=threshold), [text], windows, starts, ends) == ["two"]


@pytest.fixture(scope="module")
def development_rows():
    if "MEFT_DATA_DIR" not in os.environ:
        pytest.skip("MEFT_DATA_DIR is not set")
    file = Path(os.environ["MEFT_DATA_DIR"]) / "qa" / "squad" / "validation.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gold", "first sentence", "empty"])
@pytest.mark.parametrize("unanswerable", [False, True])
def test_scores_of_the_development_set_are_the_official_ones(development_rows, name, unanswerable):
    rows = development_rows
    if unanswerable:  # every third question loses its answers
        rows = [row | {"answers": {"text": []}} if i % 3 == 0 else row for i, row in enumerate(rows)]
    ours, official = both_scores(rows, PREDICTIONS[name], unanswerable)
    print(f"\nv{1 + unanswerable}, {name}: ours {ours}, reference {official}")
    assert ours == pytest.approx(official, abs=1e-9)
