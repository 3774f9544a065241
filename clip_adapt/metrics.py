"""What is measured on the test split, each with a 95 % interval."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

RESAMPLES = 1000


def evaluate(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], seed: int = 0
) -> dict[str, dict[str, float]]:
    """Return every metric with its percentile-bootstrap interval over the test images.

    Args:
        labels: true classes (N,).
        predicted: predicted classes (N,).
        seed: of the resampling; the same seed gives the same intervals.

    Returns:
        name -> {"value", "low", "high"}, fractions between 0 and 1.
    """
    # A metric of hard predictions is a function of how often each (true, predicted) pair occurs,
    # so resampling the counts of the pairs is resampling the images.
    pairs, counts = np.unique(np.stack([labels, predicted]), axis=1, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(
        len(labels), counts / counts.sum(), size=RESAMPLES
    )
    return {name: _with_interval(metric, pairs, counts, drawn) for name, metric in METRICS.items()}


def _with_interval(
    metric: Callable[..., float],
    pairs: NDArray[np.int64],
    counts: NDArray[np.int64],
    drawn: NDArray[np.int64],
) -> dict[str, float]:
    values = [_weighted(metric, pairs, weights) for weights in drawn]
    low, high = np.quantile(values, [0.025, 0.975])
    return {"value": _weighted(metric, pairs, counts), "low": float(low), "high": float(high)}


def _weighted(
    metric: Callable[..., float], pairs: NDArray[np.int64], weights: NDArray[np.int64]
) -> float:
    seen = weights > 0
    true, predicted = pairs[:, seen]
    return float(metric(true, predicted, sample_weight=weights[seen]))


def _accuracy(true: NDArray[np.int64], predicted: NDArray[np.int64], **kwargs: object) -> float:
    return accuracy_score(true, predicted, **kwargs)


def _balanced_accuracy(
    true: NDArray[np.int64], predicted: NDArray[np.int64], **kwargs: object
) -> float:
    # Classes that are predicted but absent have no recall: scikit-learn warns and leaves them out,
    # which is what is meant here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return balanced_accuracy_score(true, predicted, **kwargs)


def _macro_f1(true: NDArray[np.int64], predicted: NDArray[np.int64], **kwargs: object) -> float:
    return f1_score(true, predicted, average="macro", zero_division=0, **kwargs)


METRICS: dict[str, Callable[..., float]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
}
