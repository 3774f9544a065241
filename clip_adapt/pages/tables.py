"""The tables of a page: classes and confusions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from clip_adapt.pages.facts import ImagePredictions
from clip_adapt.pages.numbers import DASH


@dataclass(frozen=True)
class ClassRow:
    """How one class fares: shares from 0 to 1, and what it is taken for most often."""

    name: str
    images: int
    recall: float
    precision: float
    f1: float
    mistaken: str


def list_classes(p: ImagePredictions, confusion: NDArray[np.int64]) -> list[ClassRow]:
    """Return a row for every class, in the order of the classes."""
    precision, recall, f1, support = precision_recall_fscore_support(
        p.labels, p.predicted, labels=range(len(p.classes)), zero_division=0
    )
    off = confusion - np.diag(confusion.diagonal())
    worst = off.argmax(1)
    return [
        ClassRow(
            name,
            int(support[c]),
            float(recall[c]),
            float(precision[c]),
            float(f1[c]),
            f"{p.classes[worst[c]]} ({off[c, worst[c]]})" if off[c].any() else DASH,
        )
        for c, name in enumerate(p.classes)
    ]


def count_confusions(p: ImagePredictions) -> NDArray[np.int64]:
    """Return how many images of each true class (rows) were given each class (C, C)."""
    return confusion_matrix(p.labels, p.predicted, labels=range(len(p.classes)))


def divide_by_row(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the counts as shares of their row; a class without images has zeros."""
    return confusion / np.maximum(confusion.sum(1, keepdims=True), 1)


def list_confusions(
    confusion: NDArray[np.int64], classes: list[str], limit: int
) -> list[tuple[str, str, int, float]]:
    """Return (true, predicted, images, share of the true class), the largest share first."""
    off = confusion - np.diag(confusion.diagonal())
    shares = divide_by_row(confusion)
    order = np.lexsort((-off.ravel(), -shares.ravel() * (off.ravel() > 0)))[:limit]
    pairs = [divmod(int(i), len(classes)) for i in order]
    return [
        (classes[t], classes[k], int(off[t, k]), float(shares[t, k])) for t, k in pairs if off[t, k]
    ]
