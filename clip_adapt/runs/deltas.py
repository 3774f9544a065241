"""Measuring one delta or several on the test split of a data set: what ``evaluate`` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clip_adapt.config.values import Names
from clip_adapt.data import catalog
from clip_adapt.data.source import Gives
from clip_adapt.errors import InputError
from clip_adapt.system.files import choose_cache_folder, require_writable, write_text
from clip_adapt.system.reading import make_path
from clip_adapt.system.run_files import METRICS
from clip_adapt.system.temporaries import sweep_cache
from clip_adapt.system.text.showing import write_json

if TYPE_CHECKING:
    from clip_adapt.adapted.classifier import Classifier
    from clip_adapt.data.dataset import Dataset
    from clip_adapt.data.items import Item


def measure_deltas(
    adapters: Sequence[str],
    *,
    dataset: str,
    classes: Literal["delta", "dataset"] = "delta",
    model: str | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    on_bad_image: Literal["error", "skip"] = "error",
    download: bool = False,
    data_dir: str | None = None,
    cache: bool = True,
    cache_dir: str | None = None,
    method_file: str | None = None,
    metrics: Names | None = None,
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
    from clip_adapt.evaluation.deltas import DeltaTest
    from clip_adapt.evaluation.finding import find_metrics
    from clip_adapt.inputs.features import FeatureCache
    from clip_adapt.objectives._finding import find_measuring_objective

    more = find_metrics(metrics)
    catalog.find_dataset(dataset)  # says what is wrong with it before anything is loaded
    folder = make_path(output) if output is not None else None
    models = _load_deltas(adapters, model, method_file, device, precision)
    wanted = _choose_gives(models, classes)
    card = catalog.find_dataset(dataset, wants=wanted)
    gives = catalog.find_gives(card)
    if gives != wanted == "captions":
        raise InputError(
            f"a delta that was trained on captions has no classes, and dataset {dataset} has no "
            "captions: add classes=dataset to tell its classes apart, or give a table of captions"
        )
    data = Dataset.from_card(card, cache_dir=cache_dir, data_dir=data_dir, download=download)

    def list_test() -> list[Item]:
        items = _list_readable(data, on_bad_image, cache_dir)
        if folder is not None:
            require_writable(folder)
        return items

    sweep_cache(choose_cache_folder(cache_dir).absolute())
    kept = FeatureCache(choose_cache_folder(cache_dir) / "features" if cache else None)
    test = DeltaTest(models, data, classes == "dataset", list_test, kept, more)
    result, files = find_measuring_objective(gives).measure_deltas(test)
    if folder is not None:
        for name, text in files.items():
            write_text(folder / name, text)
        write_text(folder / METRICS, f"{write_json(result, indent=1)}\n")
    return result


def _load_deltas(
    adapters: Sequence[str],
    model: str | None,
    method_file: str | None,
    device: str,
    precision: str,
) -> dict[str, Classifier]:
    from clip_adapt.adapted import delta, lookup
    from clip_adapt.adapted.loading import load_classifier

    loaded: dict[str, Classifier] = {}
    backbones: dict[str, Any] = {}
    for name, adapter in zip(_make_names(adapters), adapters, strict=True):
        header, _ = delta.read(delta.locate(adapter))
        shared = backbones.get(header.backbone["fingerprint"])
        # A method_file and a model are for the deltas that need one; the others are of methods and
        # on backbones that ship.
        alone = len(adapters) == 1
        needs_model = shared is None and (alone or not lookup.ships(header.backbone))
        classifier = load_classifier(
            adapter,
            backbone=shared,
            model=model if needs_model else None,
            method_file=method_file if alone or "file" in header.method else None,
            device=device,
            precision=precision,
        )
        backbones[classifier.backbone.fingerprint] = classifier.backbone
        loaded[name] = classifier
    return loaded


def _choose_gives(models: dict[str, Classifier], classes: str) -> Gives:
    # A delta without classes is measured on captions, or on the data set's own classes.
    told_apart = classes == "dataset" or all(model.classes for model in models.values())
    return "classes" if told_apart else "captions"


def _make_names(adapters: Sequence[str]) -> list[str]:
    # runs/eyes/coop-lite-16shot-seed1/adapter is called coop-lite-16shot-seed1.
    paths = [Path(a) for a in adapters]
    short = [p.parent.name if p.name == "adapter" and p.parent.name else p.name for p in paths]
    twice = sorted({str(a) for a in adapters if list(adapters).count(a) > 1})
    if twice:
        raise InputError(f"a delta is given twice: {', '.join(twice)}")
    return short if len(set(short)) == len(short) else [str(a) for a in adapters]


def _list_readable(data: Dataset, on_bad_image: str, cache_dir: str | None) -> list[Item]:
    # The test images, without those that cannot be read where they may be left out.
    from clip_adapt.data import decoding, scan

    paths = [item.path for item in data.test]
    reasons = scan.survey_images(paths, choose_cache_folder(cache_dir)).broken
    if on_bad_image == "error":
        decoding.refuse_broken(reasons)
    if len(reasons) == len(data.test):
        raise InputError(f"the test split of {data.name} is empty: there is nothing to measure")
    return [item for item in data.test if item.path not in reasons]
