"""Metrics of how probabilities rank images: each class against the rest, then the mean over them.

A class is left out when no test image, or every test image, is of it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn import metrics as library

from clip_adapt.evaluation.metric import Metric
from clip_adapt.evaluation.predictions import Predictions, average_defined


def _average_over_classes(score: Callable[..., float]) -> Callable[[Predictions], float]:
    def average(p: Predictions) -> float:
        kinds = [p.labels == c for c in range(p.n_classes)]
        defined = [c for c, kind in enumerate(kinds) if kind.any() and not kind.all()]
        values = [score(kinds[c], p.probabilities[:, c]) for c in defined]
        return float(np.mean(values)) if values else float("nan")

    return average


auroc = Metric(
    name="auroc",
    spoken="AUROC",
    headline=True,
    value=_average_over_classes(library.roc_auc_score),
    resampled=lambda r: average_defined(r.auroc),
)

average_precision = Metric(
    name="average_precision",
    spoken="average precision",
    value=_average_over_classes(library.average_precision_score),
    resampled=lambda r: average_defined(r.average_precision),
)
