"""Split-conformal sets: every class that fits an image, right with a promised probability.

From n labelled calibration images that nothing was trained or chosen on, q is the
ceil((n + 1)(1 - alpha))-th smallest score of a true class; the set of a new image holds each class
whose score is at most q. It holds the true class with probability 1 - alpha or more, whatever the
model, as long as calibration and new images come from one source (Vovk et al. 2005).

    lac   s(x, y) = 1 - p(y | x)
          Sadinle et al. 2019, https://arxiv.org/abs/1609.00451
    aps   s(x, y) = sum of p(c | x) over the c with p(c | x) > p(y | x)
          Romano et al. 2020, https://arxiv.org/abs/2006.02544

lac gives the smallest sets on average; a set may be empty, which says that no class fits. aps gives
larger sets to harder images and is never empty: this is Romano's score without its random part, so
that one image always has one answer. When more than 1 - alpha of the images are right without any
set, aps covers more than it promises.

Where calibration images are not drawn like new ones, since the draw took as many of a rare class as
of a usual one, an image of class c counts w(c) times: its share among new images over its share
among those that were left. The threshold of a class y is then the least score q at which the
calibration images with scores up to q hold (1 - alpha) of all weight, w(y) of the new image among
it (Podkopaev & Ramdas 2021, https://arxiv.org/abs/2103.03323). With equal weights that is q.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clip_adapt.adapted.prediction import Ranking
from clip_adapt.errors import InputError, explain_unknown

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Score = Literal["lac", "aps"]
# {"alpha", "lac", "aps", "n"}: what a delta stores; of each score a number, or one for each class
Thresholds = dict[str, Any]
EVERYTHING = 1 + 1e-6  # no score is larger


def lac(probabilities: Floats) -> Floats:
    """Return 1 - p (N, C)."""
    return 1 - probabilities


def aps(probabilities: Floats) -> Floats:
    """Return the probability of all classes that are more probable (N, C)."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    falling = np.take_along_axis(probabilities, order, axis=1)
    above = np.cumsum(falling, axis=1) - falling
    # Equal probabilities have equal scores: those of the first among them.
    same = np.diff(falling, axis=1, prepend=np.inf) == 0
    above = np.maximum.accumulate(np.where(same, -np.inf, above), axis=1)
    scores = np.empty_like(above)
    np.put_along_axis(scores, order, above, axis=1)
    return scores


SCORES: dict[str, Callable[[Floats], Floats]] = {"lac": lac, "aps": aps}


def fit_thresholds(
    probabilities: NDArray[np.generic],
    labels: Labels,
    alpha: float,
    weights: Sequence[float] = (),
) -> Thresholds:
    """Return the thresholds of every score.

    Args:
        probabilities: of the calibration images (n, C).
        labels: their true classes (n,).
        alpha: promised share of images whose set lacks the true class, above 0.
        weights: how much an image of each class counts (C,), 0 for a class of which no image was
            left; all count alike without it.

    Raises:
        InputError: when there are too few images for the promise.
    """
    require_enough(len(labels), alpha)
    p, rows = probabilities.astype(np.float64), np.arange(len(labels))
    of_truth = {name: score(p)[rows, labels] for name, score in SCORES.items()}
    if weights:
        w = np.asarray(weights, dtype=np.float64)
        found: dict[str, Any] = {
            name: find_weighted(scores, labels, w, alpha) for name, scores in of_truth.items()
        }
    else:
        found = {name: find_threshold(scores, alpha) for name, scores in of_truth.items()}
    return {"alpha": alpha, **found, "n": len(labels)}


def find_weighted(scores: Floats, labels: Labels, weights: Floats, alpha: float) -> list[float]:
    """Return the threshold of each class; one without a weight stands in every set."""
    order = np.argsort(scores, kind="stable")
    mass = weights[labels[order]].cumsum()
    needed = (1 - alpha) * (mass[-1] + weights)  # (C,)
    # 1e-9: as for the rank, what is whole on paper may be a little more in binary.
    first = np.searchsorted(mass, needed - 1e-9)
    ends = np.append(scores[order], EVERYTHING)
    return [float(t) for t in np.where(weights > 0, ends[first], EVERYTHING)]


def weigh_classes(new: Sequence[int], left: Sequence[int]) -> list[float]:
    """Return how much a calibration image of each class counts; nothing when all count alike.

    Args:
        new: images of each class where new ones come from.
        left: those of them that can be calibrated on.
    """
    if all(n * sum(left) == count * sum(new) for n, count in zip(new, left, strict=True)):
        return []
    there = sum(n for n, count in zip(new, left, strict=True) if count)
    total = sum(left)
    return [(n / there) / (c / total) if c else 0.0 for n, c in zip(new, left, strict=True)]


def find_threshold(scores: Floats, alpha: float) -> float:
    """Return the ceil((n + 1)(1 - alpha))-th smallest of n scores."""
    return float(np.sort(scores)[_rank(len(scores), alpha) - 1])


def require_enough(n: int, alpha: float) -> None:
    """Refuse n calibration images when the promise needs more.

    Raises:
        InputError: with how many are needed.
    """
    if _rank(n, alpha) > n:
        least = next(m for m in range(n + 1, n + math.ceil(2 / alpha) + 2) if _rank(m, alpha) <= m)
        raise InputError(
            f"conformal={alpha:g} needs at least {least} calibration images, there are {n}. Use "
            "fewer shots, conformal_images=FOLDER with other labelled images, or a larger value."
        )


def choose_sets(
    probabilities: NDArray[np.generic], thresholds: Thresholds, score: str
) -> NDArray[np.bool_]:
    """Return which classes are in the set of each image (N, C)."""
    return SCORES[score](probabilities.astype(np.float64)) <= np.asarray(thresholds[score])


def list_set(
    ranking: Ranking, classes: Sequence[str], thresholds: Thresholds | None, score: str
) -> Ranking:
    """Return the classes of one image that are in its set, with their probabilities.

    Args:
        ranking: all classes with their probabilities, the most probable first.
        classes: in the order of the thresholds.
        thresholds: of the delta.
        score: which of them.

    Raises:
        InputError: when the delta holds no thresholds, or there is no such score.
    """
    if thresholds is None:
        raise InputError(
            "this delta has no conformal sets: train it with conformal=0.1, which promises "
            "sets that hold the true class in 90 % of cases"
        )
    if score not in SCORES:
        raise InputError(explain_unknown("score", score, SCORES))
    found = SCORES[score](np.array([[p for _, p in ranking]], dtype=np.float64))[0]
    limits = dict(zip(classes, np.broadcast_to(thresholds[score], len(classes)), strict=True))
    return [pair for pair, s in zip(ranking, found, strict=True) if s <= limits[pair[0]]]


def _rank(n: int, alpha: float) -> int:
    # 1e-9: (n + 1)(1 - alpha) that is whole on paper may be a little more in binary.
    return max(1, math.ceil((n + 1) * (1 - alpha) - 1e-9))
