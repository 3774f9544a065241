"""Metrics of the probabilities themselves: whether they mean what they say."""

from __future__ import annotations

import math

import numpy as np
from sklearn import metrics as library

from clip_adapt.evaluation.metric import Metric
from clip_adapt.evaluation.predictions import Predictions, Resampled


def _ece(p: Predictions) -> float:
    # scikit-learn has none; the formula is torchmetrics'.
    return float(Resampled(p, np.ones((len(p.labels), 1))).ece[0])


# Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 3, 15 bins.
ece = Metric(
    name="ece",
    spoken="ECE",
    unit="per cent",
    better="lower",
    value=_ece,
    resampled=lambda r: r.ece,
)

# Half the sum of squares, which for two classes is the usual score.
brier = Metric(
    name="brier",
    spoken="Brier score",
    better="lower",
    value=lambda p: library.brier_score_loss(
        p.labels, p.probabilities, labels=range(p.n_classes), scale_by_half=True
    ),
    resampled=lambda r: r.average(r.predictions.squared_error),
)

# The negative log-likelihood of the true class, mean over images.
nll = Metric(
    name="nll",
    spoken="NLL",
    unit="nats",
    better="lower",
    high=math.inf,
    value=lambda p: library.log_loss(p.labels, p.probabilities, labels=range(p.n_classes)),
    resampled=lambda r: r.average(r.predictions.nll),
)
