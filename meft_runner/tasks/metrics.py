"""The metrics of GLUE (arXiv 1804.07461), computed offline by scikit-learn and SciPy."""

import math
from collections.abc import Callable, Sequence

import datasets
import evaluate
import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics

from meft_runner.errors import UserError, nearest


class GlueMetric(evaluate.Metric):
    """One metric in the form of the `evaluate` library, without its hub.

    Subclasses set `name` and `dtype`, and define `score`. A score that is not defined is NaN, which is no best epoch,
    null in the record and a dash in tables.

    Args:
        classes: how many there are; 0 where grades are scored.
    """

    name: str
    dtype: str = "int64"

    def __init__(self, classes: int) -> None:
        self.classes = classes
        super().__init__(config_name=self.name, keep_in_memory=True)

    def score(self, references: np.ndarray, predictions: np.ndarray) -> float:
        """Returns the score of (N,) predictions."""
        raise NotImplementedError

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value(self.dtype)
        return evaluate.MetricInfo(
            description=self.__doc__ or "",
            citation="",
            features=datasets.Features({"predictions": value, "references": value}),
        )

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        return {self.name: float(self.score(np.asarray(references), np.asarray(predictions)))}


class Accuracy(GlueMetric):
    """Share of right predictions."""

    name = "accuracy"

    def score(self, references: np.ndarray, predictions: np.ndarray) -> float:
        """Returns the share."""
        return sklearn_metrics.accuracy_score(references, predictions)


class F1(GlueMetric):
    """Harmonic mean of precision and recall: of class 1 where there are two, else the mean over classes."""

    name = "f1"

    def score(self, references: np.ndarray, predictions: np.ndarray) -> float:
        """Returns F1; NaN where class 1 of two is neither predicted nor there. Of more, such classes are left out."""
        average = "binary" if self.classes == 2 else "macro"
        return sklearn_metrics.f1_score(references, predictions, average=average, zero_division=np.nan)


class Matthews(GlueMetric):
    """Matthews correlation coefficient."""

    name = "matthews"

    def score(self, references: np.ndarray, predictions: np.ndarray) -> float:
        """Returns the coefficient; NaN where all rows have, or are predicted to have, one class."""
        return _defined(sklearn_metrics.matthews_corrcoef, references, predictions)


class Pearson(GlueMetric):
    """Pearson correlation coefficient."""

    name = "pearson"
    dtype = "float64"

    def score(self, references: np.ndarray, predictions: np.ndarray) -> float:
        """Returns the coefficient; NaN where grades or predictions are constant, or predictions not finite."""
        return _defined(lambda *values: stats.pearsonr(*values).statistic, references, predictions)


class Spearman(GlueMetric):
    """Spearman rank correlation coefficient."""

    name = "spearman"
    dtype = "float64"

    def score(self, references: np.ndarray, predictions: np.ndarray) -> float:
        """Returns the coefficient; NaN where grades or predictions are constant, or predictions not finite."""
        return _defined(lambda *values: stats.spearmanr(*values).statistic, references, predictions)


def _defined(correlation: Callable[..., float], references: np.ndarray, predictions: np.ndarray) -> float:
    if not np.isfinite(predictions).all() or np.ptp(references) == 0 or np.ptp(predictions) == 0:
        return math.nan
    return correlation(references, predictions)


METRICS: dict[str, type[GlueMetric]] = {m.name: m for m in (Accuracy, F1, Matthews, Pearson, Spearman)}


def check_metrics(names: Sequence[str], regression: bool, key: str = "task.metrics") -> None:
    """Makes sure that there are metrics, and that every one is known and scores what the task predicts.

    Args:
        names: what is to be computed.
        regression: whether grades are predicted instead of classes.
        key: the setting that names them.

    Raises:
        UserError: there is none, one is given twice or not known, or one is for the other kind of task.
    """
    fitting = [name for name, metric in METRICS.items() if (metric.dtype == "float64") == regression]
    if not names:
        raise UserError(f"{key}=[]: expected at least one of {', '.join(fitting)}.")
    if len(set(names)) < len(names):
        raise UserError(f"{key}=[{','.join(names)}]: a metric is given twice. Give each once.")
    for name in names:
        if name not in fitting:
            what = "grades" if regression else "classes"
            raise UserError(
                f"{key}: '{name}' does not score {what}, {nearest(name, fitting)}expected {', '.join(fitting)}."
            )


def compute_metrics(
    names: Sequence[str], classes: int, predictions: np.ndarray, references: np.ndarray
) -> dict[str, float]:
    """Computes several metrics of the same answers.

    Args:
        names: metrics to compute, known ones.
        classes: how many there are; 0 where grades are scored.
        predictions: (N,) class numbers or values.
        references: (N,) likewise.

    Returns:
        Each metric by name, as a fraction; NaN where it is not defined.
    """
    scores: dict[str, float] = {}
    for name in names:
        scores |= METRICS[name](classes).compute(predictions=predictions, references=references)
    return scores
