"""Metrics of what is decided: the most probable class of each image, however probable it is."""

from __future__ import annotations

from sklearn import metrics as library

from clip_adapt.evaluation.metric import Metric
from clip_adapt.evaluation.predictions import average_defined

accuracy = Metric(
    name="accuracy",
    spoken="accuracy",
    unit="per cent",
    headline=True,
    value=lambda p: library.accuracy_score(p.labels, p.predicted),
    resampled=lambda r: r.accuracy,
)

# The mean over the classes that have test images.
balanced_accuracy = Metric(
    name="balanced_accuracy",
    spoken="balanced accuracy",
    unit="per cent",
    headline=True,
    value=lambda p: library.balanced_accuracy_score(p.labels, p.predicted),
    resampled=lambda r: average_defined(r.recall),
)

macro_f1 = Metric(
    name="macro_f1",
    spoken="macro F1",
    unit="per cent",
    value=lambda p: library.f1_score(p.labels, p.predicted, average="macro", zero_division=0),
    resampled=lambda r: average_defined(r.f1),
)

# Agreement beyond chance; below 0 it is worse than chance. Cohen 1960.
cohen_kappa = Metric(
    name="cohen_kappa",
    spoken="Cohen's kappa",
    value=lambda p: library.cohen_kappa_score(p.labels, p.predicted),
    resampled=lambda r: r.cohen_kappa,
    low=-1.0,
)
