"""Predictions of test images, and what metrics are made of, under all resamples at once.

A resample is a weight for every image: how often it was drawn. ``Resampled`` takes all weights
(N, R) together, and each of its numbers equals scikit-learn's function of the same name on the
repeated images; with that function, a resample at a time, it would take minutes and not a fraction
of a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

ECE_BINS = 15
TINY = float(np.finfo(np.float64).eps)  # a probability of 0 counts as this, as in scikit-learn


@dataclass(frozen=True)
class Predictions:
    """True classes (N,) and probabilities (N, C) of test images, float64."""

    labels: Labels
    probabilities: Floats

    @cached_property
    def predicted(self) -> Labels:
        """The most probable class of each image (N,)."""
        return self.probabilities.argmax(1)

    @cached_property
    def is_right(self) -> NDArray[np.bool_]:
        """Whether the most probable class is the true one (N,)."""
        return self.predicted == self.labels

    @property
    def n_classes(self) -> int:
        """Number of classes C."""
        return self.probabilities.shape[1]

    @cached_property
    def of_true_class(self) -> Floats:
        """The probability of the true class (N,)."""
        return np.take_along_axis(self.probabilities, self.labels[:, None], 1)[:, 0]

    @cached_property
    def squared_error(self) -> Floats:
        """Half the squared distance to the one-hot truth (N,), between 0 and 1."""
        square = (self.probabilities**2).sum(1)
        return (square - 2 * self.of_true_class + 1) / 2

    @cached_property
    def nll(self) -> Floats:
        """The negative log-likelihood in nats (N,)."""
        return -np.log(np.clip(self.of_true_class, TINY, None))

    @cached_property
    def calibration_bin(self) -> Labels:
        """The calibration bin of each image (N,): bins of equal width of the top probability."""
        edges = np.linspace(0, 1, ECE_BINS + 1)
        top = np.clip(self.probabilities.max(1), 0, 1)
        return np.clip(np.searchsorted(edges, top, side="right") - 1, 0, ECE_BINS - 1)


class Resampled:
    """Predictions under the weights (N, R) of R resamples; every metric is (R,) or (C, R).

    A value that a resample does not define (the AUROC of a class that it lacks) is NaN.
    """

    def __init__(self, predictions: Predictions, weights: Floats) -> None:
        self.predictions, self.weights = predictions, weights
        self.total = weights.sum(0)

    @cached_property
    def support(self) -> Floats:
        """How many images are of each class (C, R)."""
        return self._count_by_class(self.predictions.labels)

    @cached_property
    def true_positives(self) -> Floats:
        """How many images of each class are predicted as it (C, R)."""
        return self._count_by_class(self.predictions.labels, self.predictions.is_right)

    @cached_property
    def predicted_positives(self) -> Floats:
        """How many images are predicted as each class (C, R)."""
        return self._count_by_class(self.predictions.predicted)

    @property
    def recall(self) -> Floats:
        """Share of a class's images that are predicted as it (C, R)."""
        return _divide(self.true_positives, self.support)

    @property
    def precision(self) -> Floats:
        """Share of the images predicted as a class that are of it (C, R)."""
        return _divide(self.true_positives, self.predicted_positives)

    @property
    def f1(self) -> Floats:
        """Harmonic mean of precision and recall (C, R)."""
        return _divide(2 * self.true_positives, self.support + self.predicted_positives)

    @property
    def auroc(self) -> Floats:
        """Area under the ROC curve of each class against the rest (C, R)."""
        return self._ranking[0]

    @property
    def average_precision(self) -> Floats:
        """Average precision of each class against the rest (C, R)."""
        return self._ranking[1]

    @property
    def accuracy(self) -> Floats:
        """Share of images that are right (R,)."""
        return self.average(self.predictions.is_right)

    @property
    def cohen_kappa(self) -> Floats:
        """Agreement beyond what the two distributions of classes give by chance (R,)."""
        chance = (self.support * self.predicted_positives).sum(0) / self.total**2
        return _divide(self.accuracy - chance, 1 - chance)

    @property
    def ece(self) -> Floats:
        """Expected calibration error (R,): mean over bins of |accuracy - confidence|, weighted.

        Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 3, 15 bins.
        """
        gap = self.predictions.is_right - self.predictions.probabilities.max(1)
        in_bins = (
            _make_one_hot(self.predictions.calibration_bin, ECE_BINS, gap) @ self.weights
        )  # (bins, R)
        return np.abs(in_bins).sum(0) / self.total

    def average(self, values: NDArray[np.generic]) -> Floats:
        """Return the weighted mean (R,) of a value per image (N,)."""
        return values.astype(np.float64) @ self.weights / self.total

    def repeat(self) -> Iterator[Predictions]:
        """Yield the predictions of one resample after the other, images repeated as drawn."""
        every = np.arange(len(self.predictions.labels))
        for weights in self.weights.T:
            drawn = np.repeat(every, weights.astype(np.int64))
            yield Predictions(self.predictions.labels[drawn], self.predictions.probabilities[drawn])

    def _count_by_class(self, labels: Labels, values: NDArray[np.generic] | None = None) -> Floats:
        return _make_one_hot(labels, self.predictions.n_classes, values) @ self.weights

    @cached_property
    def _ranking(self) -> tuple[Floats, Floats]:
        pairs = [
            measure_ranking(
                self.predictions.labels == c, self.predictions.probabilities[:, c], self.weights
            )
            for c in range(self.predictions.n_classes)
        ]
        return np.stack([a for a, _ in pairs]), np.stack([p for _, p in pairs])


def measure_ranking(
    positive: NDArray[np.bool_], scores: Floats, weights: Floats
) -> tuple[Floats, Floats]:
    """Return the AUROC and the average precision (R,) each, of scores (N,) under weights (N, R).

    The distinct scores of positive images are K thresholds. They cut the negatives into 2K + 1
    bins, below, at and above each; the weights in those bins are all that both numbers need.
    """
    nothing = np.full(weights.shape[1], np.nan)
    if positive.all() or not positive.any():
        return nothing, nothing
    thresholds, at = np.unique(scores[positive], return_inverse=True)
    left, right = (np.searchsorted(thresholds, scores[~positive], s) for s in ("left", "right"))
    here = _make_one_hot(at, len(thresholds), where=positive) @ weights  # (K, R)
    bins = _make_one_hot(left + right, 2 * len(thresholds) + 1, where=~positive) @ weights
    mass = bins.cumsum(0)  # (2K + 1, R): negatives in a bin or below it
    below, up_to, negatives = mass[0:-1:2], mass[1::2], mass[-1]
    true = here[::-1].cumsum(0)[::-1]  # positives at or above each threshold
    precision = np.nan_to_num(_divide(true, true + negatives - below))
    auroc = _divide((here * (below + up_to) / 2).sum(0), here.sum(0) * negatives)
    average = _divide((here * precision).sum(0), here.sum(0))
    average[negatives == 0] = np.nan
    return auroc, average


def average_defined(values: Floats) -> Floats:
    """Return the mean over classes (R,) of values (C, R), leaving out those that are NaN."""
    defined = ~np.isnan(values)
    return _divide(np.where(defined, values, 0).sum(0), defined.sum(0).astype(np.float64))


def _make_one_hot(
    index: Labels,
    size: int,
    values: NDArray[np.generic] | None = None,
    where: NDArray[np.bool_] | None = None,
) -> csr_array:
    # (size, N): column n holds its value, or 1, in row index[n]; columns outside ``where`` nothing.
    columns = np.arange(len(index)) if where is None else np.flatnonzero(where)
    data = np.ones(len(index)) if values is None else values.astype(np.float64)
    shape = (size, len(index) if where is None else len(where))
    return csr_array((data, (index, columns)), shape=shape)


def _divide(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom > 0)
