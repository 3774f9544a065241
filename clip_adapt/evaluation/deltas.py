"""Deltas beside each other: what classifies the same test images, and how much they differ."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from clip_adapt.adapted.classifier import Classifier
from clip_adapt.data.dataset import Dataset
from clip_adapt.data.items import Item
from clip_adapt.errors import InputError
from clip_adapt.evaluation import classification
from clip_adapt.evaluation.classification import Evaluation
from clip_adapt.evaluation.measuring import compare
from clip_adapt.evaluation.metric import Metric
from clip_adapt.inputs.features import FeatureCache
from clip_adapt.system.run_files import PREDICTIONS
from clip_adapt.system.text.names import make_file_name


@dataclass(frozen=True)
class DeltaTest:
    """Deltas and what they are measured on.

    Attributes:
        models: the adapted CLIPs by name.
        dataset: the data set.
        takes_classes: whether the data set's classes are told apart, not those of the deltas.
        list_test: returns the test images that can be read; raises InputError when there are
            others that may not be left out. It reads every image, so cheaper checks come first.
        cache: where features are kept.
        metrics: metrics besides those that ship.
    """

    models: Mapping[str, Classifier]
    dataset: Dataset
    takes_classes: bool
    list_test: Callable[[], list[Item]]
    cache: FeatureCache
    metrics: Sequence[Metric] = ()


def measure_classes(test: DeltaTest) -> tuple[dict[str, Any], dict[str, str]]:
    """Classify the test images with each delta.

    Returns:
        what metrics.json says, and the other files by name.

    Raises:
        InputError: when the classes do not fit, or an image cannot be read.
    """
    data, models = test.dataset, dict(test.models)
    if test.takes_classes:
        models = {name: _move_to_classes(name, model, data) for name, model in models.items()}
    names = {name: _name_classes(data, model) for name, model in models.items()}
    for name, model in models.items():
        classification.map_labels(data.test, names[name], model.classes)
    _require_same_classes(models)
    items = test.list_test()
    found = {
        name: classification.measure_beside_zero_shot(
            model,
            classification.map_labels(items, names[name], model.classes),
            test.cache,
            more=test.metrics,
        )
        for name, model in models.items()
    }
    result = _describe_one(found) if len(found) == 1 else _describe_several(found)
    renamed = dict.fromkeys(
        f"{theirs!r} as {ours!r}"
        for of_delta in names.values()
        for theirs, ours in zip(data.classes, of_delta, strict=True)
        if theirs != ours
    )
    if renamed:
        result["notes"] = [f"classes are measured as {', '.join(renamed)}", *result["notes"]]
    return result, dict(_write_predictions(name, one, found) for name, one in found.items())


def _name_classes(data: Dataset, model: Classifier) -> list[str]:
    # The data set's classes by the names of the delta's: a class has that of its folder or label as
    # well, on either side, and large letters or _ for a space are no other name.
    stored = model.header.stored if model.header else {}
    known = {**{name: c for name, c in stored.items() if c in model.classes}}
    known |= {name: name for name in model.classes}
    alike = {_read_loosely(name): known[name] for name in reversed(known)}
    of_folder = {spoken: name for name, spoken in data.stored.items()}
    found = []
    for name in data.classes:
        both = (name, of_folder.get(name, name))
        exact = [known[n] for n in both if n in known]
        near = [alike[_read_loosely(n)] for n in both if _read_loosely(n) in alike]
        found.append((exact or near or [name])[0])
    return found


def _read_loosely(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split())


def _move_to_classes(name: str, model: Classifier, data: Dataset) -> Classifier:
    assert model.header is not None, "a loaded delta has a header"
    method = model.header.method
    if not model.method.works_on_other_classes:
        raise InputError(
            f"classes=dataset: what {method['name']} trained for {name} belongs to its own classes "
            f"({', '.join(model.classes)}) and cannot be used on others"
        )
    task = data.task(prompts=model.method.task.prompts, shots=model.method.task.shots)
    return model.for_task(task)


def _require_same_classes(models: Mapping[str, Classifier]) -> None:
    (first, one), *others = models.items()
    for name, other in others:
        apart = sorted(set(one.classes) ^ set(other.classes))
        if apart:
            raise InputError(
                f"{first} and {name} tell different classes apart, so their numbers cannot be "
                f"compared: only one of them knows {', '.join(apart)}"
            )


def _describe_one(found: Mapping[str, Evaluation]) -> dict[str, Any]:
    (only,) = found.values()
    return only.facts()


def _describe_several(found: Mapping[str, Evaluation]) -> dict[str, Any]:
    pairs = [(f"{a} - {b}", found[a].ours, found[b].ours) for b, a in combinations(found, 2)]
    return {
        "deltas": {name: one.facts() for name, one in found.items()},
        "differences": {title: compare(one, other) for title, one, other in pairs},
        "n_test": len(next(iter(found.values())).items),
        "notes": next(iter(found.values())).facts()["notes"],
    }


def _write_predictions(
    name: str, one: Evaluation, found: Mapping[str, Evaluation]
) -> tuple[str, str]:
    table = classification.write_predictions(one.probabilities, one.items, one.classes)
    folder = "" if len(found) == 1 else f"{make_file_name(name.replace('/', '-').strip('-'))}/"
    return f"{folder}{PREDICTIONS}", table
