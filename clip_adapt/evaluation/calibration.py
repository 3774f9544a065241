"""What is learned after training: a temperature on val, conformal sets on images of their own.

Neither sees an image that the part was trained on, and the sets see none that anything was chosen
on, or their promise would not hold. Test images play no part.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import cross_entropy

from clip_adapt.adapted import conformal
from clip_adapt.adapted.classifier import Classifier
from clip_adapt.data.dataset import Dataset, require_apart
from clip_adapt.data.items import Item, Support
from clip_adapt.errors import InputError, list_lines
from clip_adapt.evaluation import classification
from clip_adapt.inputs.features import FeatureCache
from clip_adapt.system.files import hash_file

log = logging.getLogger(__name__)

LARGEST = 1000.0  # temperatures between 1 / LARGEST and LARGEST
LITTLE = 0.8  # weights between this and its inverse change little, and are not spoken of


def find_temperature(logits: Tensor, labels: Tensor) -> float | None:
    """Return the temperature at which logits (N, C) are most likely, given the labels (N,).

    Guo et al. 2017, https://arxiv.org/abs/1706.04599, section 4.2: the minimum over T of the mean
    cross entropy of logits / T, which is convex in 1 / T; Brent's search over log T finds it in
    float64. There is none, and None is returned, when every image is right (ever sharper is ever
    better) or when the true classes have no larger logits than the others.
    """
    logits, labels = logits.double().cpu(), labels.cpu()
    of_truth = logits.gather(1, labels[:, None])[:, 0]
    all_right = bool((of_truth == logits.max(1).values).all())
    if all_right or float((of_truth - logits.mean(1)).mean()) <= 0:
        return None
    found = minimize_scalar(
        lambda t: float(cross_entropy(logits / np.exp(t), labels)),
        bounds=(-np.log(LARGEST), np.log(LARGEST)),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return float(np.exp(found.x))


def require_left(pool: Sequence[Item], left: Sequence[Item]) -> None:
    """Refuse labelled images of which none is left to calibrate on.

    Raises:
        InputError: with the remedy.
    """
    if not left:
        raise InputError(
            "conformal= needs labelled images that were not used for adapting, and all "
            f"{len(pool)} were: using an image for both is refused, because the sets would "
            "promise too much. Use fewer shots, or conformal_images=FOLDER with other images."
        )


def draw_images(items: Sequence[Item], count: int | None, seed: int) -> list[Item]:
    """Return the calibration images of ``conformal=`` among those that were not used for adapting.

    Args:
        items: what was not used.
        count: how many to draw at random; None takes all.
        seed: of the draw.
    """
    if count is not None and count > len(items):
        log.warning("%d calibration images are left, fewer than %d", len(items), count)
    return random.Random(seed).sample(items, count) if count and count < len(items) else list(items)


def compare_shares(
    pool: Sequence[Item], left: Sequence[Item], classes: Sequence[str]
) -> tuple[list[float], list[str]]:
    """Compare what is left to calibrate on with the training images, which stand for new ones.

    Returns:
        how much a calibration image of each class counts (conformal.py), and what to know about it.
    """
    new, rest = ([Counter(i.label for i in items)[c] for c in range(len(classes))]
                 for items in (pool, left))  # fmt: skip
    weights = conformal.weigh_classes(new, rest)
    if all(LITTLE <= weight <= 1 / LITTLE for weight in weights):
        return weights, []
    lines = list_lines(
        f"{name}: {count} of {n}" for name, count, n in zip(classes, rest, new, strict=True)
    )
    gone = [name for name, count in zip(classes, rest, strict=True) if not count]
    always = f" No image is left of {', '.join(gone)}: every set holds it." if gone else ""
    return weights, [
        "conformal= calibrates on what the draw has left of the training images, in which classes "
        "have other shares: each image counts so that the shares are those of the training images, "
        "and the sets hold their promise for new images with these. A class with few images left "
        f"tells little of itself.{always} Left are\n{lines}"
    ]


def list_set_aside(dataset: Dataset, other: Dataset) -> list[Item]:
    """Return all images of a data set that is there for calibrating, labelled as ``dataset`` is.

    Raises:
        InputError: when it has other classes, or an image that is tested on.
    """
    items = [*other.train, *other.val, *other.test]
    items = classification.map_labels(items, other.classes, dataset.classes)
    require_apart(items, dataset.test)
    return items


def list_unused(train: Sequence[Item], support: Support) -> list[Item]:
    """Return the training images that are not, and share no group with one, in the support set.

    A copy of a support image under another name counts as that image.
    """
    used = {hash_file(i.path) for i in (*support.train, *support.val)}
    groups = {i.group for i in (*support.train, *support.val)} - {None}
    return [i for i in train if i.group not in groups and hash_file(i.path) not in used]


def require_unused(items: Sequence[Item], left: Sequence[Item]) -> None:
    """Refuse calibration images of which ``list_unused`` leaves some out.

    Raises:
        InputError: listing them.
    """
    kept = {item.path for item in left}
    used = [item.path for item in items if item.path not in kept]
    if used:
        raise InputError(
            f"{len(used)} calibration images were used for adapting (train or val), or share a "
            f"group with one that was, so the sets would promise too much:\n{list_lines(used)}\n"
            "Remove them, or calibrate on other images."
        )


def list_rows(items: Sequence[Item], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row (path, sha256, label, split) for every calibration image."""
    rows = Support(list(items), [], 0).manifest(classes)
    return [{**row, "split": "calibration"} for row in rows]


def fit_temperature(
    classifier: Classifier, val: Sequence[Item], cache: FeatureCache
) -> tuple[Classifier, list[str]]:
    """Return the classifier at the temperature of its val images, and what to know about it."""
    logits = classification.compute_logits(classifier, val, cache, "val features")
    best = find_temperature(logits, torch.tensor([i.label for i in val]))
    if best is not None:
        return classifier.adjust(temperature=best), []
    note = (
        f"the temperature stays 1: on these {len(val)} val images no other is most likely, because "
        "all are right or the logits say nothing"
    )
    log.warning(note)
    return classifier.adjust(temperature=1.0), [note]


def fit_sets(
    classifier: Classifier,
    items: Sequence[Item],
    alpha: float,
    cache: FeatureCache,
    weights: Sequence[float] = (),
) -> Classifier:
    """Return the classifier with the conformal thresholds of calibration images."""
    p = classification.compute_probabilities(classifier, items, cache, "calibration features")
    thresholds = conformal.fit_thresholds(
        p.numpy(), classification.list_labels(items), alpha, weights
    )
    return classifier.adjust(conformal=thresholds)


def require_val(support: Support) -> None:
    """Refuse ``calibrate=true`` without validation images.

    Raises:
        InputError: with the remedy.
    """
    if not support.val:
        raise InputError(
            "calibrate=true fits the temperature on validation images and there are none: add a "
            "val split, or leave calibrate=false. Training and test images are never used for it."
        )
