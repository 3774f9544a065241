"""Measuring one delta or several on the test split of a data set: what ``evaluate`` does."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clip_adapt.data import catalog
from clip_adapt.data.source import Gives
from clip_adapt.errors import InputError
from clip_adapt.system.files import require_writable, write_text
from clip_adapt.system.run_files import METRICS, PREDICTIONS, RETRIEVAL

if TYPE_CHECKING:
    from clip_adapt.adapted.classifier import Classifier
    from clip_adapt.data.dataset import Dataset
    from clip_adapt.data.items import Item
    from clip_adapt.evaluation.classification import Evaluation


def measure_deltas(
    adapters: Sequence[str],
    *,
    dataset: str,
    classes: Literal["delta", "dataset"] = "delta",
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    on_bad_image: Literal["error", "skip"] = "error",
    download: bool = False,
    data_dir: str | None = None,
    cache: bool = True,
    cache_dir: str | None = None,
    method_file: str | None = None,
    metrics: list[str] | str | None = None,
    output: str | None = None,
) -> dict[str, Any]:
    """Measure deltas on a data set's test split; configs/evaluate.yaml describes the options.

    Returns:
        for one delta {"test": metrics, "zero_shot": metrics, "n_test": number of images, ...};
        for several {"deltas": {name: the same}, "differences": {"a - b": metrics}, "n_test": ...},
        where the interval of a difference is over resamples that both share.

    Raises:
        InputError: when something does not fit.
    """
    from clip_adapt.data.dataset import Dataset
    from clip_adapt.evaluation import classification
    from clip_adapt.evaluation.finding import find_metrics
    from clip_adapt.inputs.features import FeatureCache
    from clip_adapt.system.files import choose_cache_folder

    more = find_metrics(metrics)
    catalog.find_dataset(dataset)  # says what is wrong with it before anything is loaded
    folder = Path(output).expanduser() if output is not None else None
    models = _load(adapters, method_file, device, precision)
    card = catalog.find_dataset(dataset, wants=_choose_wanted(models, dataset, classes))
    data = Dataset.from_card(card, cache_dir=cache_dir, data_dir=data_dir, download=download)
    if catalog.find_gives(card) == "captions":
        if more:
            raise InputError("metrics= measures probabilities of classes, and captions have none")
        return _measure_retrieval(models, data, on_bad_image, cache, cache_dir, folder)
    if classes == "dataset":
        models = {name: _move_to_classes(name, model, data) for name, model in models.items()}
    items = {
        n: classification.map_labels(data.test, data.classes, m.classes) for n, m in models.items()
    }
    _require_same_classes(models)
    broken = _find_broken(data, on_bad_image, cache_dir)
    if folder is not None:
        require_writable(folder)
    kept = FeatureCache(choose_cache_folder(cache_dir) / "features" if cache else None)
    found = {
        name: classification.measure_beside_zero_shot(
            model, _leave_out(items[name], broken), kept, more=more
        )
        for name, model in models.items()
    }
    result = _describe_one(found) if len(found) == 1 else _describe_several(found)
    if folder is not None:
        _write(folder, found, result)
    return result


def _load(
    adapters: Sequence[str], method_file: str | None, device: str, precision: str
) -> dict[str, Classifier]:
    from clip_adapt.adapted import delta
    from clip_adapt.adapted.loading import load_classifier

    loaded: dict[str, Classifier] = {}
    backbones: dict[str, Any] = {}
    for name, adapter in zip(_make_names(adapters), adapters, strict=True):
        header, _ = delta.read(delta.locate(adapter))
        shared = backbones.get(header.backbone["fingerprint"])
        # A method_file is for the deltas that name one; the others are of methods that ship.
        own = method_file if len(adapters) == 1 or "file" in header.method else None
        model = load_classifier(
            adapter, backbone=shared, method_file=own, device=device, precision=precision
        )
        backbones[model.backbone.fingerprint] = model.backbone
        loaded[name] = model
    return loaded


def _choose_wanted(models: dict[str, Classifier], dataset: str, classes: str) -> Gives:
    # What a delta without classes is measured on: captions, or the data set's own classes.
    if classes == "dataset" or all(model.classes for model in models.values()):
        return "classes"
    if catalog.find_gives(catalog.find_dataset(dataset, wants="captions")) == "captions":
        return "captions"
    raise InputError(
        f"a delta that was trained on captions has no classes, and dataset {dataset} has no "
        "captions: add classes=dataset to tell its classes apart, or give a table of captions"
    )


def _measure_retrieval(
    models: dict[str, Classifier],
    data: Dataset,
    on_bad_image: str,
    cache: bool,
    cache_dir: str | None,
    folder: Path | None,
) -> dict[str, Any]:
    from clip_adapt.evaluation import retrieval
    from clip_adapt.inputs.features import FeatureCache
    from clip_adapt.system.files import choose_cache_folder

    if len(models) > 1:
        raise InputError(f"retrieval is measured for one delta at a time, not {len(models)}")
    (model,) = models.values()
    items = _leave_out(data.test, _find_broken(data, on_bad_image, cache_dir))
    if folder is not None:
        require_writable(folder)
    kept = FeatureCache(choose_cache_folder(cache_dir) / "features" if cache else None)
    found = retrieval.measure_beside_zero_shot(model.method, items, kept)
    result = {**found.facts(), "notes": []}
    if folder is not None:
        write_text(folder / RETRIEVAL, retrieval.write_csv(found))
        text = jsonlib.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
        write_text(folder / METRICS, f"{text}\n")
    return result


def _make_names(adapters: Sequence[str]) -> list[str]:
    # runs/eyes/coop-lite-16shot-seed1/adapter is called coop-lite-16shot-seed1.
    paths = [Path(a) for a in adapters]
    short = [p.parent.name if p.name == "adapter" and p.parent.name else p.name for p in paths]
    twice = sorted({str(a) for a in adapters if list(adapters).count(a) > 1})
    if twice:
        raise InputError(f"a delta is given twice: {', '.join(twice)}")
    return short if len(set(short)) == len(short) else [str(a) for a in adapters]


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


def _require_same_classes(models: dict[str, Classifier]) -> None:
    (first, one), *others = models.items()
    for name, other in others:
        apart = sorted(set(one.classes) ^ set(other.classes))
        if apart:
            raise InputError(
                f"{first} and {name} tell different classes apart, so their numbers cannot be "
                f"compared: only one of them knows {', '.join(apart)}"
            )


def _find_broken(data: Dataset, on_bad_image: str, cache_dir: str | None) -> set[str]:
    from clip_adapt.data import decoding, scan
    from clip_adapt.system.files import choose_cache_folder

    reasons = scan.survey_images(
        [item.path for item in data.test], choose_cache_folder(cache_dir)
    ).broken
    if on_bad_image == "error":
        decoding.refuse_broken(reasons)
    if len(reasons) == len(data.test):
        raise InputError(f"the test split of {data.name} is empty: there is nothing to measure")
    return set(reasons)


def _leave_out(items: list[Item], broken: set[str]) -> list[Item]:
    return [item for item in items if item.path not in broken]


def _describe_one(found: dict[str, Evaluation]) -> dict[str, Any]:
    (only,) = found.values()
    return only.facts()


def _describe_several(found: dict[str, Evaluation]) -> dict[str, Any]:
    from clip_adapt.evaluation.measuring import compare

    pairs = [(f"{a} - {b}", found[a].ours, found[b].ours) for b, a in combinations(found, 2)]
    return {
        "deltas": {name: one.facts() for name, one in found.items()},
        "differences": {title: compare(one, other) for title, one, other in pairs},
        "n_test": len(next(iter(found.values())).items),
        "notes": next(iter(found.values())).facts()["notes"],
    }


def _write(folder: Path, found: dict[str, Evaluation], result: dict[str, Any]) -> None:
    from clip_adapt.evaluation import classification

    for name, one in found.items():
        table = classification.write_predictions(one.probabilities, one.items, one.classes)
        own = folder if len(found) == 1 else folder / name.replace("/", "-").strip("-")
        write_text(own / PREDICTIONS, table)
    text = jsonlib.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(folder / METRICS, f"{text}\n")
