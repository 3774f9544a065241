"""Measuring predictions by every metric, each number with a 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from clip_adapt.evaluation.finding import list_shipped
from clip_adapt.evaluation.metric import Metric
from clip_adapt.evaluation.predictions import Floats, Labels, Predictions, Resampled
from clip_adapt.evaluation.quantities import PER_CLASS, Estimate
from clip_adapt.evaluation.resampling import (
    FEWEST,
    count_resamples,
    draw_resamples,
    make_estimate,
)


@dataclass(frozen=True)
class Measured:
    """The metrics of one model on a test set.

    Attributes:
        table: name -> {"value", "low", "high"}; None where the test set does not define it.
        per_class: class -> {"support": images, "recall": {"value", "low", "high"}, ...}.
        confusion: how many images of each class (rows) are predicted as each class (columns).
        samples: name -> the metric in every resample (R,); equal seeds mean equal resamples.
    """

    table: dict[str, Estimate]
    per_class: dict[str, dict[str, Any]]
    confusion: list[list[int]]
    samples: dict[str, Floats]


def measure(
    labels: NDArray[np.generic],
    probabilities: NDArray[np.generic],
    classes: Sequence[str],
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
    more: Sequence[Metric] = (),
) -> Measured:
    """Return every metric with its interval.

    Args:
        labels: true classes (N,), at least one.
        probabilities: rows (N, C) that sum to 1.
        classes: their names.
        groups: what is drawn together; None draws images.
        seed: of the resampling; the same seed gives the same intervals.
        more: metrics besides those that ship.
    """
    p = Predictions(labels.astype(np.int64), probabilities.astype(np.float64))
    metrics = (*list_shipped(), *more)
    totals: list[dict[str, Floats]] = []
    of_classes: list[dict[str, Floats]] = []
    done = 0
    for weights in draw_resamples(
        len(p.labels), groups, count_resamples(*p.probabilities.shape), seed
    ):
        r = Resampled(p, weights)
        few = Resampled(p, weights[:, : max(0, FEWEST - done)])
        totals.append({m.name: m.resample(r if m.resampled else few) for m in metrics})
        of_classes.append({q.name: getattr(r, q.name) for q in PER_CLASS})
        done += weights.shape[1]
    samples = {m.name: np.concatenate([t[m.name] for t in totals]) for m in metrics}
    in_class = {q.name: np.concatenate([c[q.name] for c in of_classes], 1) for q in PER_CLASS}
    table = {m.name: make_estimate(m.measure(p), samples[m.name], m.low, m.high) for m in metrics}
    confusion = confusion_matrix(p.labels, p.predicted, labels=range(p.n_classes))
    return Measured(table, _measure_classes(p, classes, in_class), confusion.tolist(), samples)


def compare(a: Measured, b: Measured) -> dict[str, Estimate]:
    """Return a - b for every metric, with the interval over resamples that both share."""
    found = {}
    for name in a.table:
        one, other = a.table[name]["value"], b.table[name]["value"]
        value = math.nan if one is None or other is None else one - other
        samples = a.samples[name] - b.samples[name]
        found[name] = make_estimate(value, samples, -math.inf, math.inf)
    return found


def list_notes(labels: Labels, classes: Sequence[str]) -> list[str]:
    """Return what a reader of the metrics should know about the test set."""
    present = set(labels.tolist())
    absent = [name for label, name in enumerate(classes) if label not in present]
    if len(present) == 1:
        only = classes[next(iter(present))]
        return [
            f"all test images are of one class, {only!r}: AUROC and average precision are not "
            "defined, kappa says nothing, and balanced accuracy is the accuracy"
        ]
    if absent:
        return [
            f"no test image of {', '.join(absent)}: left out of balanced accuracy, AUROC and "
            "average precision, and 0 in macro F1 where it is predicted"
        ]
    return []


def _measure_classes(
    p: Predictions, classes: Sequence[str], samples: dict[str, Floats]
) -> dict[str, dict[str, Any]]:
    exact = Resampled(p, np.ones((len(p.labels), 1)))
    values = {q.name: getattr(exact, q.name)[:, 0] for q in PER_CLASS}
    support = exact.support[:, 0].astype(int).tolist()
    return {
        name: {"support": support[c]}
        | {
            q.name: make_estimate(values[q.name][c], samples[q.name][c], q.low, q.high)
            for q in PER_CLASS
        }
        for c, name in enumerate(classes)
    }
