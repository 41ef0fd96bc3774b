"""Each metric against its published formula, written out here."""

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
    scores = compute_metrics(["accuracy", "f1", "matthews"], predictions, references)
    assert scores["accuracy"] == pytest.approx((tp + tn) / len(pairs))
    assert scores["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0)
    root = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    assert scores["matthews"] == pytest.approx((tp * tn - fp * fn) / root if root else 0)


def test_correlations():
    predictions, references = np.array([0.1, 2.0, 1.5, 4.0]), np.array([0.0, 1.0, 3.0, 5.0])
    scores = compute_metrics(["pearson", "spearman"], predictions, references)
    assert scores["pearson"] == pytest.approx(np.corrcoef(predictions, references)[0, 1])
    assert scores["spearman"] == pytest.approx(1 - 6 * 2 / (4 * 15))  # 1 - 6 sum d^2 / (n (n^2 - 1))


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_constant_predictions_score_nothing(metric):
    assert compute_metrics([metric], np.zeros(4), np.arange(4.0)) == {metric: 0.0}


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_predictions_that_are_not_finite_score_nothing(metric):
    assert compute_metrics([metric], np.array([1.0, np.nan, 2.0]), np.arange(3.0)) == {metric: 0.0}


def test_unknown_metric():
    with pytest.raises(UserError, match="'matthew' does not score classes, did you mean 'matthews'"):
        check_metrics(["matthew"], regression=False)
    with pytest.raises(UserError, match="'accuracy' does not score grades, expected pearson, spearman"):
        check_metrics(["accuracy"], regression=True)
    check_metrics(["pearson", "spearman"], regression=True)
    assert set(METRICS) == {"accuracy", "f1", "matthews", "pearson", "spearman"}


def test_f1_of_more_than_two_classes_is_the_mean_over_them():
    f1 = compute_metrics(["f1"], np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2]))["f1"]
    assert f1 == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
