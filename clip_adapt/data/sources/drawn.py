"""Drawn images: a generator of clip_adapt.data.synthetic draws them once into the cache folder.

Beside them stands what digest each has, so that a damaged one is seen and drawn anew.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated

import joblib

from clip_adapt.config.cards import SPLITS, DataCard
from clip_adapt.config.values import Between
from clip_adapt.data.items import Context, Item, Splits
from clip_adapt.data.scan import hash_images
from clip_adapt.data.synthetic.blocks import draw_block, file_name
from clip_adapt.errors import InputError, explain_unknown, nearest
from clip_adapt.system.files import (
    build_folder,
    locate_resource,
    refuse_unwritable,
    write_text,
)
from clip_adapt.system.temporaries import make_prefix
from clip_adapt.system.text.names import make_file_name
from clip_adapt.system.text.progress import make_bar

log = logging.getLogger(__name__)

DIGESTS = "sha256.txt"  # as sha256sum writes them
# Every split draws from numbers of its own, so a larger train pool leaves the test set as it is.
FIRST = {"train": 0, "val": 1_000_000, "test": 2_000_000}
_BLOCK = 8

Job = tuple[str, str, int, int]  # split, class, number of the first picture, how many


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
    jobs = _list_jobs(spoken, counts)
    draw = partial(_draw_jobs, generator=generator, classes=spoken, size=size, seed=seed)
    if not folder.is_dir():
        with build_folder(folder) as building:
            draw(building, jobs)
            write_text(building / DIGESTS, _format_digests(_hash_pictures(building, jobs)))
    else:
        _repair(folder, jobs, draw, context.cache)
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


def _list_jobs(classes: Iterable[str], counts: dict[str, int]) -> list[Job]:
    return [
        (split, name, FIRST[split] + start, min(_BLOCK, count - start))
        for split, count in counts.items()
        for name in classes
        for start in range(0, count, _BLOCK)
    ]


def _draw_jobs(
    building: Path,
    jobs: list[Job],
    *,
    generator: str,
    classes: dict[str, str],
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
    with make_bar(total, "drawing") as bar:
        for done in parallel(tasks):
            bar.update(done)


def _repair(
    folder: Path, jobs: list[Job], draw: Callable[[Path, list[Job]], None], cache: Path
) -> None:
    # Draw anew what is missing, or is not what was drawn.
    known = _read_digests(folder / DIGESTS)
    if not known and not os.access(folder, os.W_OK):
        return  # of an earlier version, and nobody's to mend
    found = _hash_pictures(folder, jobs, cache)
    wrong = {name for name, digest in found.items() if known.get(name) != digest}
    if not wrong:
        return
    state = "missing or damaged" if known else "of an earlier version, which kept no digests"
    log.warning("%d drawn pictures are %s, and drawn anew: %s", len(wrong), state, folder)
    blocks = [job for job in jobs if wrong.intersection(_name_pictures(job))]
    with (
        refuse_unwritable(folder),
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=make_prefix()) as building,
    ):
        draw(Path(building), blocks)
        for name, digest in _hash_pictures(Path(building), blocks).items():
            if name in wrong:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(building, name), folder / name)
                found[name] = digest
    write_text(folder / DIGESTS, _format_digests(found))


def _name_pictures(job: Job) -> list[str]:
    split, name, start, count = job
    return [f"{split}/{name}/{file_name(start + i)}" for i in range(count)]


def _hash_pictures(folder: Path, jobs: list[Job], cache: Path | None = None) -> dict[str, str]:
    # Of all pictures by name; none for one that is missing.
    names = [name for job in jobs for name in _name_pictures(job)]
    there = [name for name in names if (folder / name).is_file()]
    digests = hash_images([str(folder / name) for name in there], cache)
    return dict.fromkeys(names, "") | dict(zip(there, digests, strict=True))


def _format_digests(digests: dict[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items())


def _read_digests(file: Path) -> dict[str, str]:
    try:
        lines = file.read_bytes().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


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
