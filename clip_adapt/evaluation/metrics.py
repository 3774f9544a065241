"""What is measured on test images, each number with a 95 % interval.

Values are scikit-learn's (the calibration error, which it lacks, is torchmetrics' formula).
Intervals are those of the bootstrap (Efron 1979) over test images, or over groups where images have
them, from the functions of resampling.py that take all resamples at once: the percentiles of the
resamples, moved so that their mean is the value. Without that, average precision and calibration
error can lie outside their own interval, because repeated images bias both upwards.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as library

from clip_adapt.evaluation.resampling import (
    Floats,
    Labels,
    Predictions,
    Resampled,
    draw,
    mean_of_defined,
    units_of,
)

RESAMPLES = 1000
FEWEST = 200  # resamples of a large test set
WORK = 2e9  # images x classes x resamples that are still quick
Interval = dict[str, float | None]


@dataclass(frozen=True)
class Metric:
    """A number of a test set: the library's function, its twin for all resamples, its range."""

    value: Callable[[Predictions], float]
    resampled: Callable[[Resampled], Floats]
    low: float = 0.0
    high: float = 1.0


def _over_classes(score: Callable[..., float]) -> Callable[[Predictions], float]:
    # One class against the rest, the mean over the classes that have images of both kinds.
    def mean(p: Predictions) -> float:
        kinds = [p.labels == c for c in range(p.n_classes)]
        defined = [c for c, kind in enumerate(kinds) if kind.any() and not kind.all()]
        values = [score(kinds[c], p.probabilities[:, c]) for c in defined]
        return float(np.mean(values)) if values else float("nan")

    return mean


def _ece(p: Predictions) -> float:
    return float(Resampled(p, np.ones((len(p.labels), 1))).ece[0])


# Every metric is a fraction between 0 and 1, with two exceptions: kappa may fall to -1, and nll is
# in nats. The Brier score is half the sum of squares, which for two classes is the usual score.
METRICS: dict[str, Metric] = {
    "accuracy": Metric(
        lambda p: library.accuracy_score(p.labels, p.predicted), lambda r: r.accuracy
    ),
    "balanced_accuracy": Metric(
        lambda p: library.balanced_accuracy_score(p.labels, p.predicted),
        lambda r: mean_of_defined(r.recall),
    ),
    "macro_f1": Metric(
        lambda p: library.f1_score(p.labels, p.predicted, average="macro", zero_division=0),
        lambda r: mean_of_defined(r.f1),
    ),
    "cohen_kappa": Metric(
        lambda p: library.cohen_kappa_score(p.labels, p.predicted),
        lambda r: r.cohen_kappa,
        low=-1.0,
    ),
    "auroc": Metric(_over_classes(library.roc_auc_score), lambda r: mean_of_defined(r.auroc)),
    "average_precision": Metric(
        _over_classes(library.average_precision_score),
        lambda r: mean_of_defined(r.average_precision),
    ),
    "ece": Metric(_ece, lambda r: r.ece),
    "brier": Metric(
        lambda p: library.brier_score_loss(
            p.labels, p.probabilities, labels=range(p.n_classes), scale_by_half=True
        ),
        lambda r: r.mean(r.of.squared_error),
    ),
    "nll": Metric(
        lambda p: library.log_loss(p.labels, p.probabilities, labels=range(p.n_classes)),
        lambda r: r.mean(r.of.surprise),
        high=float("inf"),
    ),
}
PER_CLASS = ("recall", "precision", "f1", "auroc", "average_precision")


@dataclass(frozen=True)
class Measured:
    """The metrics of one model on a test set.

    Attributes:
        table: name -> {"value", "low", "high"}; None where the test set does not define it.
        per_class: class -> {"support": images, "recall": {"value", "low", "high"}, ...}.
        confusion: how many images of each class (rows) are predicted as each class (columns).
        samples: name -> the metric in every resample (R,); equal seeds mean equal resamples.
    """

    table: dict[str, Interval]
    per_class: dict[str, dict[str, Any]]
    confusion: list[list[int]]
    samples: dict[str, Floats]


def measure(
    labels: NDArray[np.generic],
    probabilities: NDArray[np.generic],
    classes: Sequence[str],
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
) -> Measured:
    """Return every metric with its interval.

    Args:
        labels: true classes (N,), at least one.
        probabilities: rows (N, C) that sum to 1.
        classes: their names.
        groups: what is drawn together; None draws images.
        seed: of the resampling; the same seed gives the same intervals.
    """
    p = Predictions(labels.astype(np.int64), probabilities.astype(np.float64))
    kept: list[tuple[dict[str, Floats], dict[str, Floats]]] = []
    for weights in draw(len(p.labels), groups, resamples(*p.probabilities.shape), seed):
        r = Resampled(p, weights)
        totals = {name: metric.resampled(r) for name, metric in METRICS.items()}
        kept.append((totals, {name: getattr(r, name) for name in PER_CLASS}))
    samples = {name: np.concatenate([t[name] for t, _ in kept]) for name in METRICS}
    of_classes = {name: np.concatenate([c[name] for _, c in kept], 1) for name in PER_CLASS}
    values = {name: _quietly(metric.value, p) for name, metric in METRICS.items()}
    table = {n: interval(values[n], samples[n], m.low, m.high) for n, m in METRICS.items()}
    confusion = library.confusion_matrix(p.labels, p.predicted, labels=range(p.n_classes))
    return Measured(table, _per_class(p, classes, of_classes), confusion.tolist(), samples)


def difference(a: Measured, b: Measured) -> dict[str, Interval]:
    """Return a - b for every metric, with the interval over resamples that both share."""
    found = {}
    for name in a.table:
        one, other = a.table[name]["value"], b.table[name]["value"]
        value = float("nan") if one is None or other is None else one - other
        infinite = float("inf")
        found[name] = interval(value, a.samples[name] - b.samples[name], -infinite, infinite)
    return found


def mean(
    values: NDArray[np.generic],
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
    most: float = 1.0,
) -> Interval:
    """Return the mean of a value an image (N,), none above ``most``, with its interval."""
    x = values.astype(np.float64)
    drawn = draw(len(x), groups, resamples(len(x), 1), seed)
    samples = np.concatenate([x @ weights / weights.sum(0) for weights in drawn])
    return interval(float(x.mean()), samples, 0.0, most)


def interval(value: float, samples: Floats, least: float = 0.0, most: float = 1.0) -> Interval:
    """Return {"value", "low", "high"}: a value with the 95 % interval of its resamples.

    All three are None when the test set does not define the value (NaN).

    Args:
        value: of the test set as it is.
        samples: of the resamples (R,); those that are NaN are left out.
        least: no interval goes below.
        most: no interval goes above.
    """
    defined = samples[~np.isnan(samples)]
    if np.isnan(value) or not len(defined):
        return {"value": None, "low": None, "high": None}
    ends = value + np.quantile(defined - defined.mean(), [0.025, 0.975])
    low, high = np.clip(ends, min(least, value), max(most, value))
    return {"value": float(value), "low": float(low), "high": float(high)}


def resamples(n: int, n_classes: int) -> int:
    """Return how many resamples are drawn: 1000, down to 200 for large test sets."""
    return min(RESAMPLES, max(FEWEST, int(WORK / (n * n_classes))))


def notes(labels: Labels, classes: Sequence[str]) -> list[str]:
    """Return what a reader of the metrics should know about the test set."""
    present = set(labels.tolist())
    absent = [name for label, name in enumerate(classes) if label not in present]
    if len(present) == 1:
        only = classes[next(iter(present))]
        return [
            f"all test images are of one class, {only!r}: AUROC, average precision and kappa are "
            "not defined"
        ]
    if absent:
        return [
            f"no test image of {', '.join(absent)}: left out of balanced accuracy, AUROC and "
            "average precision"
        ]
    return []


def bootstrap(n: int, n_classes: int, groups: Sequence[str | None] | None, seed: int = 0) -> Any:
    """Return how intervals were made: {"resamples", "seed", "unit", "units"}."""
    return {
        "resamples": resamples(n, n_classes),
        "seed": seed,
        "unit": "image" if groups is None else "group",
        "units": len(np.unique(units_of(n, groups))),
    }


def _per_class(
    p: Predictions, classes: Sequence[str], samples: dict[str, Floats]
) -> dict[str, dict[str, Any]]:
    exact = Resampled(p, np.ones((len(p.labels), 1)))
    values = {name: getattr(exact, name)[:, 0] for name in PER_CLASS}
    support = exact.support[:, 0].astype(int).tolist()
    return {
        name: {"support": support[c]}
        | {m: interval(values[m][c], samples[m][c]) for m in PER_CLASS}
        for c, name in enumerate(classes)
    }


def _quietly(function: Callable[[Predictions], float], p: Predictions) -> float:
    # scikit-learn warns of classes that are predicted but absent, of one class alone, and of rows
    # in float32 that sum to 1 within 1e-6 only. The first are left out, which is meant; the second
    # gives NaN, which notes() puts into words; the third is no loss.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return float(function(p))
