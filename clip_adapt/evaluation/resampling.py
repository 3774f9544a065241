"""Metrics of a thousand bootstrap resamples at once.

A resample is a weight for every image: how often it was drawn. Each function here takes all weights
(N, R) together and equals scikit-learn's function of the same name on the repeated images; doing it
with that function, a resample at a time, takes minutes where this takes a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

BLOCK = 4_000_000  # weights that are held at once: 32 MB
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
    def hit(self) -> NDArray[np.bool_]:
        """Whether the most probable class is the true one (N,)."""
        return self.predicted == self.labels

    @property
    def n_classes(self) -> int:
        """Number of classes C."""
        return self.probabilities.shape[1]

    @cached_property
    def of_truth(self) -> Floats:
        """The probability of the true class (N,)."""
        return np.take_along_axis(self.probabilities, self.labels[:, None], 1)[:, 0]

    @cached_property
    def squared_error(self) -> Floats:
        """Half the squared distance to the one-hot truth (N,), between 0 and 1."""
        square = (self.probabilities**2).sum(1)
        return (square - 2 * self.of_truth + 1) / 2

    @cached_property
    def surprise(self) -> Floats:
        """The negative log-likelihood in nats (N,)."""
        return -np.log(np.clip(self.of_truth, TINY, None))

    @cached_property
    def bin(self) -> Labels:
        """The calibration bin of each image (N,): bins of equal width of the top probability."""
        edges = np.linspace(0, 1, ECE_BINS + 1)
        top = np.clip(self.probabilities.max(1), 0, 1)
        return np.clip(np.searchsorted(edges, top, side="right") - 1, 0, ECE_BINS - 1)


class Resampled:
    """Predictions under the weights (N, R) of R resamples; every metric is (R,) or (C, R).

    A value that a resample does not define (the AUROC of a class that it lacks) is NaN.
    """

    def __init__(self, predictions: Predictions, weights: Floats) -> None:
        self.of, self.weights = predictions, weights
        self.total = weights.sum(0)

    @cached_property
    def support(self) -> Floats:
        """How many images are of each class (C, R)."""
        return self._by_class(self.of.labels)

    @cached_property
    def hits(self) -> Floats:
        """How many images of each class are predicted as it (C, R)."""
        return self._by_class(self.of.labels, self.of.hit)

    @cached_property
    def claimed(self) -> Floats:
        """How many images are predicted as each class (C, R)."""
        return self._by_class(self.of.predicted)

    @property
    def recall(self) -> Floats:
        """Share of a class's images that are predicted as it (C, R)."""
        return _ratio(self.hits, self.support)

    @property
    def precision(self) -> Floats:
        """Share of the images predicted as a class that are of it (C, R)."""
        return _ratio(self.hits, self.claimed)

    @property
    def f1(self) -> Floats:
        """Harmonic mean of precision and recall (C, R)."""
        return _ratio(2 * self.hits, self.support + self.claimed)

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
        return self.mean(self.of.hit)

    @property
    def cohen_kappa(self) -> Floats:
        """Agreement beyond what the two distributions of classes give by chance (R,)."""
        chance = (self.support * self.claimed).sum(0) / self.total**2
        return _ratio(self.accuracy - chance, 1 - chance)

    @property
    def ece(self) -> Floats:
        """Expected calibration error (R,): mean over bins of |accuracy - confidence|, weighted.

        Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 3, 15 bins.
        """
        gap = self.of.hit - self.of.probabilities.max(1)
        in_bins = _one_hot(self.of.bin, ECE_BINS, gap) @ self.weights  # (bins, R)
        return np.abs(in_bins).sum(0) / self.total

    def mean(self, values: NDArray[np.generic]) -> Floats:
        """Return the weighted mean (R,) of a value an image (N,)."""
        return values.astype(np.float64) @ self.weights / self.total

    def _by_class(self, labels: Labels, values: NDArray[np.generic] | None = None) -> Floats:
        return _one_hot(labels, self.of.n_classes, values) @ self.weights

    @cached_property
    def _ranking(self) -> tuple[Floats, Floats]:
        pairs = [
            ranking(self.of.labels == c, self.of.probabilities[:, c], self.weights)
            for c in range(self.of.n_classes)
        ]
        return np.stack([a for a, _ in pairs]), np.stack([p for _, p in pairs])


def ranking(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return the AUROC and the average precision (R,) each, of scores (N,) under weights (N, R).

    The distinct scores of positive images are K thresholds. They cut the negatives into 2K + 1
    bins, below, at and above each; the weights in those bins are all that both numbers need.
    """
    nothing = np.full(weights.shape[1], np.nan)
    if positive.all() or not positive.any():
        return nothing, nothing
    thresholds, at = np.unique(scores[positive], return_inverse=True)
    left, right = (np.searchsorted(thresholds, scores[~positive], s) for s in ("left", "right"))
    here = _one_hot(at, len(thresholds), where=positive) @ weights  # (K, R)
    bins = _one_hot(left + right, 2 * len(thresholds) + 1, where=~positive) @ weights
    mass = bins.cumsum(0)  # (2K + 1, R): negatives in a bin or below it
    below, up_to, negatives = mass[0:-1:2], mass[1::2], mass[-1]
    true = here[::-1].cumsum(0)[::-1]  # positives at or above each threshold
    precision = np.nan_to_num(_ratio(true, true + negatives - below))
    auroc = _ratio((here * (below + up_to) / 2).sum(0), here.sum(0) * negatives)
    average = _ratio((here * precision).sum(0), here.sum(0))
    average[negatives == 0] = np.nan
    return auroc, average


def draw(n: int, groups: Sequence[str | None] | None, count: int, seed: int) -> Iterator[Floats]:
    """Yield the weights (n, R) of ``count`` bootstrap resamples, in blocks.

    Images are drawn with replacement; when some have groups, whole groups are (an image without one
    is a group of its own), because images of one patient are no independent evidence.
    """
    units = units_of(n, groups)
    size = int(units.max()) + 1
    stream = np.random.default_rng(seed)
    step = max(1, BLOCK // n)
    for start in range(0, count, step):
        rows = min(step, count - start)
        drawn = stream.integers(size, size=(rows, size)) + np.arange(rows)[:, None] * size
        counts = np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)
        yield np.ascontiguousarray(counts.T[units], dtype=np.float64)


def units_of(n: int, groups: Sequence[str | None] | None) -> Labels:
    """Return, for each of n images, the index of the unit that is drawn with it."""
    if groups is None:
        return np.arange(n)
    names = [f"alone {i}" if g is None else f"group {g}" for i, g in enumerate(groups)]
    return np.unique(names, return_inverse=True)[1]


def mean_of_defined(values: Floats) -> Floats:
    """Return the mean over classes (R,) of values (C, R), leaving out those that are NaN."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(0), defined.sum(0).astype(np.float64))


def _one_hot(
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


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom > 0)
