"""Drawn images: a generator of clip_adapt.data.synthetic draws them once into the cache folder."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Annotated

import joblib
from tqdm import tqdm

from clip_adapt.config.cards import SPLITS, DataCard
from clip_adapt.config.values import Between
from clip_adapt.data.items import Context, Item, Splits
from clip_adapt.data.synthetic.blocks import draw_block, file_name
from clip_adapt.errors import InputError, explain_unknown, nearest
from clip_adapt.system.files import build_folder, locate_resource
from clip_adapt.system.names import make_file_name

# Every split draws from numbers of its own, so a larger train pool leaves the test set as it is.
FIRST = {"train": 0, "val": 1_000_000, "test": 2_000_000}


def read(
    card: DataCard,
    context: Context,
    *,
    generator: str,
    size: Annotated[int, Between(32, 1024)] = 160,
    per_class: dict[str, int],
    seed: Annotated[int, Between(0)] = 0,
) -> Splits:
    """Draw the images unless they are drawn already, and list them.

    Args:
        card: its ``classes`` map folder names to the conditions that the generator knows.
        context: where the cache is.
        generator: name of a module in clip_adapt.data.synthetic with ``CONDITIONS`` and ``draw``.
        size: edge of an image in pixels.
        per_class: images a class, by split.
        seed: seed of the drawings.

    Raises:
        InputError: when an option does not fit, or the cache folder cannot be written.
    """
    counts = _check_counts(per_class)
    digest = _hash_code(_find_generator(generator))
    spoken = {name: card.names_of(name)[0] for name in card.classes}
    key = {"generator": generator, "size": size, "seed": seed, "classes": spoken}
    key |= {"per_class": counts, "code": digest}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = context.cache / "drawn" / f"{make_file_name(card.name)}-{name}"
    if not folder.is_dir():
        _draw_all(folder, generator, spoken, counts, size, seed)
    return _list_items(folder, list(spoken), counts)


def _check_counts(per_class: dict[str, int]) -> dict[str, int]:
    for split, count in per_class.items():
        if split not in SPLITS or count < (0 if split == "val" else 1):
            raise InputError(
                f"dataset.per_class: {split}: {count} is refused{nearest(split, SPLITS)} "
                "Expected train and test of at least 1, val of at least 0."
            )
    missing = [s for s in ("train", "test") if s not in per_class]
    if missing:
        raise InputError(f"dataset.per_class says nothing of {' and '.join(missing)}")
    return {split: per_class.get(split, 0) for split in SPLITS}


def _find_generator(name: str) -> ModuleType:
    files = [p.stem for p in locate_resource("data", "synthetic").glob("*.py") if p.stem[0] != "_"]
    modules = {f: importlib.import_module(f"clip_adapt.data.synthetic.{f}") for f in sorted(files)}
    known = [f for f, module in modules.items() if hasattr(module, "CONDITIONS")]
    if name not in known:
        raise InputError(explain_unknown("generator", name, known))
    return modules[name]


def _hash_code(module: ModuleType) -> str:
    # A changed drawing must not be hidden by pictures that an earlier version left in the cache.
    source = Path(inspect.getfile(module)).parent
    digest = hashlib.sha256()
    for path in sorted(source.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _draw_all(
    folder: Path,
    generator: str,
    classes: dict[str, str],
    counts: dict[str, int],
    size: int,
    seed: int,
) -> None:
    jobs = [
        (split, name, FIRST[split] + start, min(_BLOCK, count - start))
        for split, count in counts.items()
        for name in classes
        for start in range(0, count, _BLOCK)
    ]
    with build_folder(folder) as building:
        _draw_jobs(building, generator, classes, jobs, size, seed)


_BLOCK = 8


def _draw_jobs(
    building: Path,
    generator: str,
    classes: dict[str, str],
    jobs: list[tuple[str, str, int, int]],
    size: int,
    seed: int,
) -> None:
    parallel = joblib.Parallel(n_jobs=os.cpu_count() or 1, return_as="generator_unordered")
    tasks = (
        joblib.delayed(draw_block)(
            str(building / split / name), generator, classes[name], start, count, size, seed
        )
        for split, name, start, count in jobs
    )
    total = sum(count for *_, count in jobs)
    with tqdm(total=total, desc="drawing", unit="img", disable=None) as bar:
        for done in parallel(tasks):
            bar.update(done)


def _list_items(folder: Path, names: list[str], counts: dict[str, int]) -> Splits:
    parts = {
        split: [
            Item(str(folder / split / name / file_name(FIRST[split] + i)), label)
            for label, name in enumerate(names)
            for i in range(count)
        ]
        for split, count in counts.items()
    }
    return Splits(names, parts["train"], parts["val"], parts["test"])
