"""What else a trained part is measured on: the classes that it never saw, or another data set.

    few_shot        train and test on the same classes
    base_to_new     train on the first half of the classes; test on them, and on the other half
    cross_dataset   train here; test here, and on the data sets of test_on with their own classes

Zhou et al. 2022, https://arxiv.org/abs/2203.05557, sections 4.1 and 4.2. As in the authors' code
the first half is the larger one, and its support images are those of the draw over all classes. In
contrast to it, the harmonic mean has an interval, and every number stands beside zero-shot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from clip_adapt.adapted.classifier import Classifier
from clip_adapt.data.dataset import Dataset
from clip_adapt.data.items import Item, Support
from clip_adapt.errors import InputError
from clip_adapt.evaluation import classification
from clip_adapt.evaluation.classification import Evaluation
from clip_adapt.evaluation.measuring import Measured
from clip_adapt.evaluation.metric import Metric
from clip_adapt.evaluation.quantities import Estimate
from clip_adapt.evaluation.resampling import make_estimate
from clip_adapt.inputs.features import FeatureCache
from clip_adapt.method.contract import Method

Protocol = Literal["few_shot", "base_to_new", "cross_dataset"]
SEED = 1  # of the other tasks' bootstrap: it draws independently of the main one, which has 0


def split_classes(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """Return the data set with its base classes, and with its new classes.

    Raises:
        InputError: with fewer than four classes, because a half must leave something to tell apart.
    """
    n = len(dataset.classes)
    if n < 4:
        raise InputError(
            f"protocol=base_to_new needs at least four classes, two to train on and two that are "
            f"new; {dataset.name} has {n}: {', '.join(dataset.classes)}"
        )
    middle = math.ceil(n / 2)
    base, new = (_keep_labels(dataset, part) for part in (range(middle), range(middle, n)))
    return base, new


def keep_classes(support: Support, n: int) -> Support:
    """Return the images of the first n classes of a draw."""
    kept = range(n)
    return replace(support, train=_relabel(support.train, kept), val=_relabel(support.val, kept))


def require_transfer(method: Method, name: str, protocol: Protocol) -> None:
    """Refuse a method that is tied to the classes that it is trained on.

    Raises:
        InputError: with the reason.
    """
    if not method.works_on_other_classes:
        raise InputError(
            f"protocol={protocol} asks for classes that were not trained, and what "
            f"method={name} trains (with these options) belongs to its own classes. Use a method "
            "whose part fits any class, such as coop or zero_shot, or protocol=few_shot."
        )


def measure_other(
    classifier: Classifier, dataset: Dataset, cache: FeatureCache, more: Sequence[Metric] = ()
) -> Evaluation:
    """Measure a classifier of other classes on the test images of its data set."""
    return classification.measure_beside_zero_shot(classifier, dataset.test, cache, SEED, more)


def describe_protocol(
    protocol: Protocol, main: Evaluation, others: Mapping[str, Evaluation]
) -> dict[str, Any]:
    """Return what metrics.json says of a protocol: its name, the other tasks, the harmonic mean."""
    found: dict[str, Any] = {"protocol": protocol}
    if others:
        found["other"] = {name: other.facts() for name, other in others.items()}
    if protocol == "base_to_new":
        new = others["new"]
        found["harmonic_mean"] = {
            "test": measure_harmonic_mean(main.ours, new.ours),
            "zero_shot": measure_harmonic_mean(main.zero_shot, new.zero_shot),
        }
    return found


def measure_harmonic_mean(base: Measured, new: Measured) -> Estimate:
    """Return 2 ab / (a + b) of the accuracies on base and new classes, with its interval."""
    rows = [m.table["accuracy"]["value"] for m in (base, new)]
    assert rows[0] is not None and rows[1] is not None, "accuracy is always defined"
    samples = [m.samples["accuracy"] for m in (base, new)]
    shorter = min(map(len, samples))  # a large test set is resampled less often
    means = _average_harmonically(samples[0][:shorter], samples[1][:shorter])
    return make_estimate(
        float(_average_harmonically(np.array(rows[0]), np.array(rows[1]))), means, 0.0, 1.0
    )


def _average_harmonically(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.divide(2 * a * b, a + b, out=np.zeros_like(a), where=a + b > 0)


def _keep_labels(dataset: Dataset, labels: Sequence[int]) -> Dataset:
    return replace(
        dataset,
        classes=[dataset.classes[i] for i in labels],
        train=_relabel(dataset.train, labels),
        val=_relabel(dataset.val, labels),
        test=_relabel(dataset.test, labels),
    )


def _relabel(items: Sequence[Item], labels: Sequence[int]) -> list[Item]:
    index = {label: new for new, label in enumerate(labels)}
    return [replace(item, label=index[item.label]) for item in items if item.label in index]
