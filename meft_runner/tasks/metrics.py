"""The metrics of GLUE (arXiv 1804.07461), computed offline by scikit-learn and SciPy."""

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics

from meft_runner.errors import UserError, nearest


class GlueMetric(evaluate.Metric):
    """One metric in the form of the `evaluate` library, without its hub.

    Subclasses set `name`, `dtype` and `score`.
    """

    name: str
    dtype: str = "int64"
    score: Callable[[Any, Any], float]

    def __init__(self) -> None:
        super().__init__(config_name=self.name, keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value(self.dtype)
        return evaluate.MetricInfo(
            description=self.__doc__ or "",
            citation="",
            features=datasets.Features({"predictions": value, "references": value}),
        )

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        return {self.name: float(type(self).score(references, predictions))}


class Accuracy(GlueMetric):
    """Share of right predictions."""

    name = "accuracy"
    score = staticmethod(sklearn_metrics.accuracy_score)


class F1(GlueMetric):
    """Harmonic mean of precision and recall: of class 1 where there are two, else the mean over classes."""

    name = "f1"

    @staticmethod
    def score(references: Any, predictions: Any) -> float:
        """Returns F1; 0 where a class is neither predicted nor there."""
        average = "binary" if max(*references, *predictions) <= 1 else "macro"
        return sklearn_metrics.f1_score(references, predictions, average=average, zero_division=0.0)


class Matthews(GlueMetric):
    """Matthews correlation coefficient."""

    name = "matthews"
    score = staticmethod(sklearn_metrics.matthews_corrcoef)


class Pearson(GlueMetric):
    """Pearson correlation coefficient."""

    name = "pearson"
    dtype = "float64"

    @staticmethod
    def score(references: Any, predictions: Any) -> float:
        """Returns the coefficient; 0 where the correlation is not defined: constant or non-finite predictions."""
        return _defined(stats.pearsonr, references, predictions)


class Spearman(GlueMetric):
    """Spearman rank correlation coefficient."""

    name = "spearman"
    dtype = "float64"

    @staticmethod
    def score(references: Any, predictions: Any) -> float:
        """Returns the coefficient; 0 where the correlation is not defined: constant or non-finite predictions."""
        return _defined(stats.spearmanr, references, predictions)


def _defined(correlation: Callable[..., Any], references: Any, predictions: Any) -> float:
    if not np.isfinite(predictions).all() or np.ptp(references) == 0 or np.ptp(predictions) == 0:
        return 0.0
    return float(correlation(references, predictions).statistic)


METRICS: dict[str, type[GlueMetric]] = {m.name: m for m in (Accuracy, F1, Matthews, Pearson, Spearman)}


def check_metrics(names: Sequence[str], regression: bool, key: str = "task.metrics") -> None:
    """Makes sure that there are metrics, and that every one is known and scores what the task predicts.

    Args:
        names: what is to be computed.
        regression: whether grades are predicted instead of classes.
        key: the setting that names them.

    Raises:
        UserError: there is none, one is not known, or one is for the other kind of task.
    """
    fitting = [name for name, metric in METRICS.items() if (metric.dtype == "float64") == regression]
    if not names:
        raise UserError(f"{key}=[]: expected at least one of {', '.join(fitting)}.")
    for name in names:
        if name not in fitting:
            what = "grades" if regression else "classes"
            raise UserError(
                f"{key}: '{name}' does not score {what}, {nearest(name, fitting)}expected {', '.join(fitting)}."
            )


def compute_metrics(names: Sequence[str], predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """Computes several metrics of the same answers.

    Args:
        names: metrics to compute, known ones.
        predictions: (N,) class numbers or values.
        references: (N,) likewise.

    Returns:
        Each metric by name, as a fraction.
    """
    scores: dict[str, float] = {}
    for name in names:
        scores |= METRICS[name]().compute(predictions=predictions, references=references)
    return scores
