"""The bootstrap (Efron 1979): resamples of test images, and the intervals that they give.

Intervals are the percentiles of the resamples, moved so that their mean is the value. Without that,
average precision and calibration error can lie outside their own interval, because repeated images
bias both upwards.

An interval holds its value. Where resamples lose a class that has few images, a metric that is
averaged over classes can take a few values only, and their percentiles can lie beside the value:
such an interval ends at it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_adapt.evaluation.predictions import Floats, Labels
from clip_adapt.evaluation.quantities import Estimate

RESAMPLES = 1000
FEWEST = 200  # resamples of a large test set
WORK = 2e9  # images x classes x resamples that are still quick
BLOCK = 4_000_000  # weights that are held at once: 32 MB


def count_resamples(n: int, n_classes: int) -> int:
    """Return how many resamples are drawn: 1000, down to 200 for large test sets."""
    return min(RESAMPLES, max(FEWEST, int(WORK / (n * n_classes))))


def draw_resamples(
    n: int, groups: Sequence[str | None] | None, count: int, seed: int
) -> Iterator[Floats]:
    """Yield the weights (n, R) of ``count`` bootstrap resamples, in blocks.

    Images are drawn with replacement; when some have groups, whole groups are (an image without one
    is a group of its own), because images of one patient are no independent evidence.
    """
    units = find_units(n, groups)
    size = int(units.max()) + 1
    stream = np.random.default_rng(seed)
    step = max(1, BLOCK // n)
    for start in range(0, count, step):
        rows = min(step, count - start)
        drawn = stream.integers(size, size=(rows, size)) + np.arange(rows)[:, None] * size
        counts = np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)
        yield np.ascontiguousarray(counts.T[units], dtype=np.float64)


def find_units(n: int, groups: Sequence[str | None] | None) -> Labels:
    """Return, for each of n images, the index of the unit that is drawn with it."""
    if groups is None:
        return np.arange(n)
    names = [f"alone {i}" if g is None else f"group {g}" for i, g in enumerate(groups)]
    return np.unique(names, return_inverse=True)[1]


def describe_bootstrap(
    n: int, n_classes: int, groups: Sequence[str | None] | None, seed: int = 0
) -> dict[str, Any]:
    """Return how intervals were made: {"resamples", "seed", "unit", "units"}."""
    return {
        "resamples": count_resamples(n, n_classes),
        "seed": seed,
        "unit": "image" if groups is None else "group",
        "units": len(np.unique(find_units(n, groups))),
    }


def estimate_mean(
    values: NDArray[np.generic],
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
    high: float = 1.0,
) -> Estimate:
    """Return the mean of a value per image (N,), none above ``high``, with its interval."""
    x = values.astype(np.float64)
    drawn = draw_resamples(len(x), groups, count_resamples(len(x), 1), seed)
    samples = np.concatenate([x @ weights / weights.sum(0) for weights in drawn])
    return make_estimate(float(x.mean()), samples, 0.0, high)


def make_estimate(value: float, samples: Floats, low: float, high: float) -> Estimate:
    """Return {"value", "low", "high"}: a value with the 95 % interval of its resamples around it.

    All three are None when the test set does not define the value (NaN).

    Args:
        value: of the test set as it is.
        samples: of the resamples (R,); those that are NaN are left out.
        low: no interval goes below.
        high: no interval goes above.
    """
    defined = samples[~np.isnan(samples)]
    if np.isnan(value) or not len(defined):
        return {"value": None, "low": None, "high": None}
    ends = value + np.quantile(defined - defined.mean(), [0.025, 0.975])
    clipped = np.clip(ends, min(low, value), max(high, value))
    return {
        "value": float(value),
        "low": float(min(clipped[0], value)),
        "high": float(max(clipped[1], value)),
    }
