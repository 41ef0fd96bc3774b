"""Each metric against its published formula, written out here."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meft_runner.errors import UserError
from meft_runner.tasks.metrics import METRICS, check_metrics, compute_metrics

answers = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=30)


def counts(pairs):
    return [sum(1 for pair in pairs if pair == kind) for kind in [(1, 1), (0, 0), (1, 0), (0, 1)]]


@given(answers)
def test_classification_metrics(pairs):
    tp, tn, fp, fn = counts(pairs)  # pairs of prediction, reference
    predictions, references = np.array(pairs).T
    scores = compute_metrics(["accuracy", "f1", "matthews"], 2, predictions, references)
    assert scores["accuracy"] == pytest.approx((tp + tn) / len(pairs))
    assert scores["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp + fp + fn else math.nan, nan_ok=True)
    root = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    assert scores["matthews"] == pytest.approx((tp * tn - fp * fn) / root if root else math.nan, nan_ok=True)


def test_correlations():
    predictions, references = np.array([0.1, 2.0, 1.5, 4.0]), np.array([0.0, 1.0, 3.0, 5.0])
    scores = compute_metrics(["pearson", "spearman"], 0, predictions, references)
    assert scores["pearson"] == pytest.approx(np.corrcoef(predictions, references)[0, 1])
    assert scores["spearman"] == pytest.approx(1 - 6 * 2 / (4 * 15))  # 1 - 6 sum d^2 / (n (n^2 - 1))


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
@pytest.mark.parametrize(
    ("predictions", "references"),
    [
        (np.zeros(4), np.arange(4.0)),
        (np.arange(4.0), np.full(4, 2.5)),
        (np.array([1.0, np.nan, 2.0, 3.0]), np.arange(4.0)),
        (np.array([1.0]), np.array([2.0])),
    ],
    ids=["constant predictions", "constant grades", "predictions that are not finite", "one row"],
)
def test_a_correlation_that_is_not_defined_is_nan(metric, predictions, references):
    assert compute_metrics([metric], 0, predictions, references) == {metric: pytest.approx(math.nan, nan_ok=True)}


def test_unknown_metric():
    with pytest.raises(UserError, match="'matthew' does not score classes, did you mean 'matthews'"):
        check_metrics(["matthew"], regression=False)
    with pytest.raises(UserError, match="'accuracy' does not score grades, expected pearson, spearman"):
        check_metrics(["accuracy"], regression=True)
    with pytest.raises(UserError, match=r"task.metrics=\[f1,f1\]: a metric is given twice"):
        check_metrics(["f1", "f1"], regression=False)
    check_metrics(["pearson", "spearman"], regression=True)
    assert set(METRICS) == {"accuracy", "f1", "matthews", "pearson", "spearman"}


def test_f1_of_more_than_two_classes_is_the_mean_over_them():
    f1 = compute_metrics(["f1"], 3, np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2]))["f1"]
    assert f1 == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


def test_f1_of_more_than_two_classes_stays_the_mean_where_rows_have_two_of_them():
    f1 = compute_metrics(["f1"], 3, np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]))["f1"]
    assert f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
