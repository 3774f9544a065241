"""Measuring classifiers on test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip_adapt.adapted import conformal
from clip_adapt.adapted.classifier import Classifier
from clip_adapt.adapted.conformal import Labels, Thresholds
from clip_adapt.data.items import Item
from clip_adapt.errors import InputError, nearest
from clip_adapt.evaluation.measuring import Measured, compare, list_notes, measure
from clip_adapt.evaluation.metric import Metric
from clip_adapt.evaluation.quantities import COVERAGE, EMPTY, SET_SIZE
from clip_adapt.evaluation.resampling import describe_bootstrap, estimate_mean
from clip_adapt.inputs.features import FeatureCache, extract
from clip_adapt.method.contract import Method
from clip_adapt.system.launch.processes import share_work
from clip_adapt.system.text.csv_text import write_table


@dataclass(frozen=True)
class Evaluation:
    """A classifier on test images, and zero-shot CLIP on the same.

    Attributes:
        classes: spoken names, in the order of the columns of ``probabilities``.
        items: the test images, labelled in that order.
        probabilities: of the classifier (N, C).
        ours: its metrics.
        zero_shot: those of the same backbone and prompts without training.
        sets: what its conformal sets are worth; None when it gives none.
        more: metrics besides those that ship.
    """

    classes: list[str]
    items: list[Item]
    probabilities: Tensor
    ours: Measured
    zero_shot: Measured
    sets: dict[str, Any] | None = None
    more: Sequence[Metric] = ()

    def facts(self) -> dict[str, Any]:
        """Return what metrics.json says of it; every value can be written as JSON."""
        labels, groups = list_labels(self.items), list_groups(self.items)
        return {
            "test": self.ours.table,
            "zero_shot": self.zero_shot.table,
            "difference": compare(self.ours, self.zero_shot),
            **({"metrics": {m.name: m.describe() for m in self.more}} if self.more else {}),
            **({"conformal": self.sets} if self.sets else {}),
            "per_class": self.ours.per_class,
            "confusion": self.ours.confusion,
            "n_test": len(self.items),
            "bootstrap": describe_bootstrap(len(self.items), len(self.classes), groups),
            "notes": list_notes(labels, self.classes),
        }


def measure_beside_zero_shot(
    classifier: Classifier,
    items: list[Item],
    cache: FeatureCache,
    seed: int = 0,
    more: Sequence[Metric] = (),
) -> Evaluation:
    """Measure a classifier on test items, and zero-shot CLIP on the same features.

    Args:
        classifier: adapted.
        items: the test images, labelled in the order of its classes.
        cache: where features are kept.
        seed: of the bootstrap; equal seeds draw equal resamples of the same items.
        more: metrics besides those that ship.
    """
    baseline = Classifier(Method(classifier.backbone, classifier.method.task))
    ours = compute_probabilities(classifier, items, cache)
    base = compute_probabilities(baseline, items, cache)
    labels, groups, names = list_labels(items), list_groups(items), classifier.classes
    return Evaluation(
        names,
        items,
        ours,
        measure(labels, ours.numpy(), names, groups, seed, more),
        measure(labels, base.numpy(), names, groups, seed, more),
        _measure_sets(classifier.conformal, ours, labels, groups, seed),
        more,
    )


def compute_probabilities(
    classifier: Classifier, items: Sequence[Item], cache: FeatureCache, label: str = "test features"
) -> Tensor:
    """Return the probabilities (N, C) of items, on the CPU."""
    return classifier.softmax(compute_logits(classifier, items, cache, label))


def compute_logits(
    classifier: Classifier, items: Sequence[Item], cache: FeatureCache, label: str
) -> Tensor:
    """Return the logits (N, C) of items before any temperature, on the CPU.

    Features come from the cache unless the method tunes the image tower.
    """
    paths = [item.path for item in items]
    if classifier.method.tunes_image_tower:
        return compute_rows(classifier, classifier.logits, paths)
    z = extract(classifier.backbone, paths, cache, label=label)[:, 0]
    return classifier.logits_of_features(z).cpu()


def compute_rows(
    classifier: Classifier, work: Callable[[Tensor], Tensor], paths: Sequence[str]
) -> Tensor:
    """Return what ``work`` makes of the pixels of images, a row each, on the CPU.

    Several processes of a run share the images.
    """

    def compute(part: Sequence[str]) -> list[Tensor]:
        made = (work(pixels).cpu() for pixels in classifier.batches(part))
        return [row.clone() for rows in made for row in rows]

    return torch.stack(share_work(compute, paths))


def _measure_sets(
    thresholds: Thresholds | None,
    probabilities: Tensor,
    labels: Labels,
    groups: list[str | None] | None,
    seed: int,
) -> dict[str, Any] | None:
    # How often the sets of test images hold the truth, how large and how often empty they are.
    if thresholds is None:
        return None
    found: dict[str, Any] = {"alpha": thresholds["alpha"], "n_calibration": thresholds["n"]}
    for score in conformal.SCORES:
        inside = conformal.choose_sets(probabilities.numpy(), thresholds, score)
        covered, sizes = inside[np.arange(len(labels)), labels], inside.sum(1)
        found[score] = {
            COVERAGE.name: estimate_mean(covered, groups, seed),
            SET_SIZE.name: estimate_mean(sizes, groups, seed, high=float(inside.shape[1])),
            EMPTY.name: estimate_mean(sizes == 0, groups, seed),
        }
    return found


def list_labels(items: Sequence[Item]) -> Labels:
    """Return the labels (N,) of items."""
    return np.array([item.label for item in items], dtype=np.int64)


def list_groups(items: Sequence[Item]) -> list[str | None] | None:
    """Return the groups of items, None when no item has one."""
    groups = [item.group for item in items]
    return groups if any(group is not None for group in groups) else None


def write_predictions(probabilities: Tensor, items: list[Item], classes: list[str]) -> str:
    """Return a table: path, label, prediction, and the probability of each class.

    Probabilities are written so that they read back as they are: rounded ones tie, and then rank
    images otherwise than the metrics do.
    """
    table: list[list[str]] = [["path", "label", "prediction", *(f"p:{name}" for name in classes)]]
    for row, item in zip(probabilities.tolist(), items, strict=True):
        best = max(range(len(row)), key=row.__getitem__)
        table.append([item.path, classes[item.label], classes[best], *map(repr, row)])
    return write_table(table)


def map_labels(items: list[Item], of_dataset: list[str], of_delta: list[str]) -> list[Item]:
    """Return the items with the labels of the delta's order of classes.

    Raises:
        InputError: when an image is of a class that the delta does not know.
    """
    used = {of_dataset[item.label] for item in items}
    unknown = [name for name in of_dataset if name in used and name not in of_delta]
    if unknown:
        hints = ", ".join(f"{n!r}{nearest(n, of_delta)}".removesuffix(".") for n in unknown)
        stop = "" if hints.endswith("?") else "."
        raise InputError(
            f"the delta does not know these classes of the data set: {hints}{stop} "
            f"It knows: {', '.join(of_delta)}. Say which is which with dataset.classes="
            '"{theirs: ours}", or train anew.'
        )
    index = {name: label for label, name in enumerate(of_delta)}
    return [Item(i.path, index[of_dataset[i.label]], i.group) for i in items]
