"""Measuring a classifier on test images."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip_adapt import metrics
from clip_adapt.classifier import Classifier
from clip_adapt.data import Item
from clip_adapt.errors import InputError, nearest
from clip_adapt.features import FeatureCache, extract
from clip_adapt.method import Method


def beside_zero_shot(
    classifier: Classifier, items: list[Item], cache: FeatureCache
) -> tuple[dict[str, Any], Tensor]:
    """Measure a classifier on test items, and zero-shot CLIP on the same features.

    Returns:
        {"test": metrics, "zero_shot": metrics}, and the classifier's probabilities (N, C).
    """
    paths = [item.path for item in items]
    z = extract(classifier.backbone, paths, cache, label="test features")[:, 0]
    zero_shot = Classifier(Method(classifier.backbone, classifier.method.task))
    if classifier.method.tunes_image_tower:
        rows = classifier.stream(paths, top_k=len(classifier.classes))
        ours = torch.tensor([[dict(row)[c] for c in classifier.classes] for row in rows])
    else:
        ours = classifier.probabilities_of_features(z).cpu()
    baseline = zero_shot.probabilities_of_features(z).cpu()
    return {"test": _measure(ours, items), "zero_shot": _measure(baseline, items)}, ours


def _measure(probabilities: Tensor, items: list[Item]) -> dict[str, dict[str, float]]:
    labels = np.array([item.label for item in items])
    return metrics.evaluate(labels, probabilities.argmax(1).numpy())


def predictions_csv(probabilities: Tensor, items: list[Item], classes: list[str]) -> str:
    """Return a table: path, label, prediction, and the probability of each class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "prediction", *(f"p:{name}" for name in classes)])
    for row, item in zip(probabilities.tolist(), items, strict=True):
        best = max(range(len(row)), key=row.__getitem__)
        shares = [f"{p:.6g}" for p in row]
        writer.writerow([item.path, classes[item.label], classes[best], *shares])
    return text.getvalue()


def mapped(items: list[Item], of_dataset: list[str], of_delta: list[str]) -> list[Item]:
    """Return the items with the labels of the delta's order of classes.

    Raises:
        InputError: when the data set has a class that the delta does not know.
    """
    unknown = [name for name in of_dataset if name not in of_delta]
    if unknown:
        hints = ", ".join(f"{n!r}{nearest(n, of_delta)}".removesuffix(".") for n in unknown)
        stop = "" if hints.endswith("?") else "."
        raise InputError(
            f"the delta does not know these classes of the data set: {hints}{stop} "
            f"It knows: {', '.join(of_delta)}. Give classes their spoken names in a card, or train "
            "anew."
        )
    index = [of_delta.index(name) for name in of_dataset]
    return [Item(i.path, index[i.label], i.group) for i in items]
