"""Measuring one delta or several on a data set: what ``evaluate`` does."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clip_adapt.config.values import Names
from clip_adapt.data import catalog, leaks
from clip_adapt.data.seen import SEEN, SeenImages, read_seen
from clip_adapt.data.source import Gives
from clip_adapt.errors import InputError
from clip_adapt.evaluation.tested import Tested, choose_tested
from clip_adapt.system.files import choose_cache_folder, require_writable, write_text
from clip_adapt.system.reading import make_path
from clip_adapt.system.run_files import CONFIG, METRICS
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
    split: Literal["all", "train", "val", "test"] | None = None,
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
    dataset_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure deltas on a data set; configs/evaluate.yaml describes the options.

    Images that one of the deltas has seen (seen.py) are left out. ``dataset_options`` stand in
    place of the data set's own, as ``dataset.KEY=VALUE`` of a command line.

    Returns:
        for one delta {"test": metrics, "zero_shot": metrics, "n_test": number of images, ...};
        for several {"deltas": {name: the same}, "differences": {"a - b": metrics}, "n_test": ...},
        where the interval of a difference is over resamples that both share. "images" says how
        many were measured on of how many, and why others were left out.

    Raises:
        InputError: when something does not fit.
    """
    from clip_adapt.data.dataset import Dataset
    from clip_adapt.evaluation.deltas import DeltaTest
    from clip_adapt.evaluation.finding import find_metrics
    from clip_adapt.inputs.features import FeatureCache
    from clip_adapt.objectives._finding import find_measuring_objective

    more = find_metrics(metrics)
    catalog.find_card(dataset, dataset_options)  # what is wrong is said before anything is loaded
    folder = _choose_folder(output)
    models, lists = _load_deltas(adapters, model, method_file, device, precision)
    wanted = _choose_gives(models, classes)
    card = catalog.find_card(dataset, dataset_options, wanted)
    gives = catalog.find_gives(card)
    if gives != wanted == "captions":
        raise InputError(
            f"a delta that was trained on captions has no classes, and dataset {dataset} has no "
            "captions: add classes=dataset to tell its classes apart, or give a table of captions"
        )

    def read(measures: bool) -> Dataset:
        return Dataset.from_card(
            card, cache_dir=cache_dir, data_dir=data_dir, download=download, measures=measures
        )

    data, measured = _choose_split(read, split)
    tested: list[Tested] = []
    told: list[str] = []

    def list_test() -> list[Item]:
        seen = [one for one in lists.values() if one is not None]
        survey = data.survey(cache_dir=cache_dir)
        tested.append(choose_tested(data.name, data.test, seen, survey, on_bad_image))
        told.extend(leaks.describe_two_labels(tested[0].items, data.classes, survey))
        if folder is not None:
            require_writable(folder)
        return tested[0].items

    sweep_cache(choose_cache_folder(cache_dir).absolute())
    kept = FeatureCache(choose_cache_folder(cache_dir) / "features" if cache else None)
    test = DeltaTest(models, data, classes == "dataset", list_test, kept, more)
    result, files = find_measuring_objective(gives).measure_deltas(test)
    notes = [*_list_unknown(lists), *data.inventory.notes, *told, *result["notes"]]
    result |= {"images": {"split": measured, **tested[0].facts()}, "notes": notes}
    if folder is not None:
        for name, text in files.items():
            write_text(folder / name, text)
        write_text(folder / METRICS, f"{write_json(result, indent=1)}\n")
    return result


def _choose_folder(output: str | None) -> Path | None:
    folder = make_path(output) if output is not None else None
    if folder is not None and os.path.lexists(folder / CONFIG):
        raise InputError(
            f"output={output} is the folder of a run, whose {METRICS} would be lost: give another, "
            f"such as output={folder / 'measured'}"
        )
    return folder


def _choose_split(read: Callable[[bool], Dataset], split: str | None) -> tuple[Dataset, str]:
    # A data set without splits is measured on as a whole; by their names its splits are those that
    # a training would make of it.
    data = read(True)
    if not data.unsplit:
        return data.to_measure(split), split or "test"
    if split in (None, "all"):
        return data, "all"
    return read(False).to_measure(split), str(split)


def _list_unknown(lists: Mapping[str, SeenImages | None]) -> list[str]:
    return [
        f"which images {name} was trained on is not known, since its folder has no {SEEN} (deltas "
        "of older versions have none): any of them may be among these test images"
        for name, seen in lists.items()
        if seen is None
    ]


def _load_deltas(
    adapters: Sequence[str],
    model: str | None,
    method_file: str | None,
    device: str,
    precision: str,
) -> tuple[dict[str, Classifier], dict[str, SeenImages | None]]:
    # Each delta by its name, and what it has seen.
    from clip_adapt.adapted import delta, lookup
    from clip_adapt.adapted.loading import load_classifier

    loaded: dict[str, Classifier] = {}
    lists: dict[str, SeenImages | None] = {}
    backbones: dict[str, Any] = {}
    for name, adapter in zip(_make_names(adapters), adapters, strict=True):
        file = delta.locate(adapter)
        header, _ = delta.read(file)
        lists[name] = read_seen(file, header.seen_sha256)
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
    return loaded, lists


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
