"""Data sets: classes, splits, and the few-shot draw with its manifest.

The test split is handed out by ``Dataset.test`` alone. What training, selection and closed forms
receive is a ``Support``, which holds no reference to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clip_adapt import cards, images
from clip_adapt.cards import SPLITS, DataCard
from clip_adapt.errors import InputError, listed
from clip_adapt.files import cache_folder, sha256
from clip_adapt.task import Prompts, Task

VAL_SHOTS = 4  # the CoOp protocol draws min(shots, 4) validation images a class


@dataclass(frozen=True, slots=True)
class Item:
    """One image: its file, the index of its class, and the group (patient, site) it belongs to."""

    path: str
    label: int
    group: str | None = None


@dataclass(frozen=True)
class Splits:
    """What a source reads: class names as they are stored, and the items of each split."""

    classes: list[str]
    train: list[Item]
    val: list[Item]
    test: list[Item]


@dataclass(frozen=True)
class Context:
    """What a source may use besides its own options: where caches lie."""

    cache: Path


@dataclass(frozen=True)
class Support:
    """The labelled images that adaptation may see.

    Attributes:
        train: the support set, in the order of the draw.
        val: the validation subset; may be empty.
        shots: what was asked for.
        notes: what a user should know about the draw (classes with fewer images than shots).
    """

    train: list[Item]
    val: list[Item]
    shots: int
    notes: list[str] = field(default_factory=list)

    def manifest(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """Return a row (path, sha256, label, split) for every image that was drawn."""
        return [
            {"path": i.path, "sha256": sha256(i.path), "label": classes[i.label], "split": split}
            for split, items in (("train", self.train), ("val", self.val))
            for i in items
        ]


@dataclass(frozen=True)
class Dataset:
    """A data set: its card, spoken class names, and items.

    Attributes:
        card: templates, descriptions, licence.
        classes: spoken names, in the order of the labels.
        train: the pool that few-shot subsets are drawn from.
        val: the pool of validation images.
        test: read by evaluation only.
    """

    card: DataCard
    classes: list[str]
    train: list[Item]
    val: list[Item]
    test: list[Item]

    @classmethod
    def load(cls, name: str | Path, *, cache_dir: str | None = None) -> Dataset:
        """Load ``eyes``, a card.yaml, or a folder of class folders.

        Raises:
            InputError: when it does not exist, holds no classes, or leaks between its splits.
        """
        return cls.from_card(cards.find_dataset(str(name)), cache_dir=cache_dir)

    @classmethod
    def from_card(cls, card: DataCard, *, cache_dir: str | None = None) -> Dataset:
        """Load the data set that a card describes; see ``load``."""
        module = cards.source_module(card.source)
        splits = module.read(card, Context(cache_folder(cache_dir)), **card.options)
        classes = [_spoken(name, card.classes) for name in splits.classes]
        _refuse_same_names(classes, splits.classes)
        _refuse_leaks(splits)
        return cls(card, classes, splits.train, splits.val, splits.test)

    @property
    def name(self) -> str:
        """The card's name."""
        return self.card.name

    def broken(self, *, cache_dir: str | None = None) -> dict[str, str]:
        """Return why images of any split cannot be read, by path; good ones are remembered."""
        paths = [item.path for split in SPLITS for item in getattr(self, split)]
        key = hashlib.sha256("\n".join(sorted(paths)).encode()).hexdigest()[:16]
        memory = cache_folder(cache_dir) / "checked" / f"{self.name}-{key}.json"
        return images.find_broken(paths, memory)

    def without(self, broken: Iterable[str]) -> Dataset:
        """Return the data set without the images at these paths.

        Raises:
            InputError: when a class has no training image left, or nothing is left to test on.
        """
        gone = set(broken)
        kept = {s: [i for i in getattr(self, s) if i.path not in gone] for s in SPLITS}
        left = {item.label for item in kept["train"]}
        empty = [name for label, name in enumerate(self.classes) if label not in left]
        if empty:
            raise InputError(f"no readable training image is left in: {', '.join(empty)}")
        if not kept["test"]:
            raise InputError(f"the test split of {self.name} is empty: nothing can be measured")
        return replace(self, train=kept["train"], val=kept["val"], test=kept["test"])

    def few_shot(self, shots: int, seed: int = 1) -> Support:
        """Draw the subsets of the CoOp protocol.

        One stream of Python's ``random`` seeded with ``seed``: for every label in order of its
        first appearance ``random.sample(items, shots)`` over train, then min(shots, 4) over val.
        A class with fewer images gives all it has (Zhou et al. 2022, authors' data loader).

        Raises:
            InputError: when ``shots`` is below 1.
        """
        if shots < 1:
            raise InputError(f"shots={shots}: expected a whole number, at least 1")
        stream = random.Random(seed)
        train = _sample(self.train, shots, stream)
        val = _sample(self.val, min(shots, VAL_SHOTS), stream)
        return Support(train, val, shots, self._notes(shots))

    def task(self, *, prompts: Prompts = "templates", shots: int = 0, seed: int = 1) -> Task:
        """Return what a method is asked."""
        return Task(
            classes=tuple(self.classes),
            templates=tuple(self.card.templates),
            descriptions=self.card.descriptions,
            prompts=prompts,
            shots=shots,
            seed=seed,
        )

    def _notes(self, shots: int) -> list[str]:
        counts = [0] * len(self.classes)
        for item in self.train:
            counts[item.label] += 1
        short = [f"{c}: {n}" for c, n in zip(self.classes, counts, strict=True) if n < shots]
        return [f"fewer than {shots} training images in {', '.join(short)}"] if short else []


def write_manifest(rows: Iterable[dict[str, Any]]) -> str:
    """Return manifest rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def require_apart(items: Iterable[Item], test: Iterable[Item]) -> None:
    """Refuse images of which a copy, or an image of the same group, is tested on.

    Raises:
        InputError: listing them.
    """
    _refuse_leaks(Splits([], list(items), [], list(test)))


def _sample(items: Sequence[Item], shots: int, stream: random.Random) -> list[Item]:
    by_label: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        by_label[item.label].append(item)
    drawn: list[Item] = []
    for of_class in by_label.values():
        drawn += stream.sample(of_class, shots) if len(of_class) >= shots else of_class
    return drawn


def _spoken(stored: str, names: dict[str, str]) -> str:
    return names.get(stored, " ".join(stored.replace("_", " ").split()))


def _refuse_same_names(classes: list[str], stored: list[str]) -> None:
    for name in sorted({c for c in classes if classes.count(c) > 1}):
        twins = [s for s, c in zip(stored, classes, strict=True) if c == name]
        raise InputError(
            f"two classes have the name {name!r}: {', '.join(map(repr, twins))}. "
            "Rename one, or give each a spoken name under classes: in a card."
        )


def _refuse_leaks(splits: Splits) -> None:
    pairs = _same_files(splits)
    groups = _shared_groups(splits)
    if pairs:
        lines = listed(f"{a}  =  {b}" for a, b in pairs)
        raise InputError(
            f"{len(pairs)} images stand in two splits, so a test score would be too good:\n"
            f"{lines}\nRemove one of each pair."
        )
    if groups:
        raise InputError(
            f"{len(groups)} groups stand in two splits:\n{listed(groups)}\n"
            "Keep all images of a group in one split."
        )


def _same_files(splits: Splits) -> list[tuple[str, str]]:
    # Equal files have equal sizes: only those are read.
    by_size: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for split in SPLITS:
        for item in getattr(splits, split):
            by_size[os.stat(item.path).st_size].append((split, item.path))
    pairs = []
    for same_size in by_size.values():
        if len({split for split, _ in same_size}) > 1:
            pairs += _same_content(same_size)
    return pairs


def _same_content(candidates: list[tuple[str, str]]) -> list[tuple[str, str]]:
    seen: dict[str, tuple[str, str]] = {}
    pairs = []
    for split, path in candidates:
        first = seen.setdefault(sha256(path), (split, path))
        if first[0] != split and os.stat(path).st_size:
            pairs.append((first[1], path))
    return pairs


def _shared_groups(splits: Splits) -> list[str]:
    where: dict[str, set[str]] = defaultdict(set)
    for split in SPLITS:
        for item in getattr(splits, split):
            if item.group is not None:
                where[item.group].add(split)
    return [f"{g} (in {', '.join(sorted(s))})" for g, s in where.items() if len(s) > 1]
