"""A few-shot subset that was drawn before, as JSON or JSON lines: used as given, order included.

Understood are the ``support.jsonl`` of a run (rows with path, label, split), lists of paths or of
``[path, label, class name]`` under ``train`` and ``val``, lists of positions in the pools of the
data set, and a map of several such subsets.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from clip_adapt.config.cards import DataCard
from clip_adapt.config.values import FilePath, NameOrPath
from clip_adapt.data import catalog, scan
from clip_adapt.data.items import Context, Item, Splits
from clip_adapt.data.source import find_source
from clip_adapt.errors import InputError, explain_unknown, list_lines
from clip_adapt.system.reading import parse_json, read_text

RECOGNISES = "a subset (.json or .jsonl)"
ASKED_LAST = True  # other sources have JSON files of their own form
# A subset is spoken of as the data set is that it was drawn from.
INHERITED = (
    "classes", "templates", "descriptions", "licence", "citation", "on_leak", "get",
)  # fmt: skip

Entry = Any  # a position, a path, [path, label, name], or {path, label, sha256}


def recognises(path: Path) -> dict[str, Any] | None:
    """Return what a card would say of a subset."""
    return {"file": str(path)} if path.suffix.lower() in (".json", ".jsonl") else None


def inherit(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the card of the whole data set says."""
    if not isinstance(values.get("of"), str):
        return {}
    base = catalog.find_dataset(values["of"])
    return {key: getattr(base, key) for key in INHERITED}


def read(
    card: DataCard,
    context: Context,
    *,
    file: FilePath,
    of: NameOrPath | None = None,
    key: str | None = None,
) -> Splits:
    """Read a subset.

    Args:
        card: not needed here; classes are those of the data set.
        context: where caches and data sets lie.
        file: the subset.
        of: the data set that the subset was drawn from and that is tested on.
        key: which subset of a file that holds several (``shots=1 seed=1``).

    Raises:
        InputError: when the file is not of this form, or names images that the data set lacks.
    """
    path = context.place(file)
    if of is None:
        raise InputError(
            f"{path} is a subset: say which data set it was drawn from with dataset.of=NAME, a "
            "folder or a card.yaml; its test images are measured on"
        )
    subset = _read_subset(path, key)
    base = catalog.find_dataset(of)
    pools = find_source(base.source).read(base, replace(context, measures=False))
    names = [base.names_of(stored)[0] for stored in pools.classes]
    finder = _Finder(path, pools, context, names)
    train = finder.find_all(subset["train"], "train")
    val = finder.find_all(subset.get("val", []), "val")
    finder.refuse_missing()
    _refuse_wrong(path, train, val, names)
    return replace(pools, train=train, val=val, drawn=True)


def _read_subset(path: Path, key: str | None) -> dict[str, list[Entry]]:
    text, lines = read_text(path), path.suffix.lower() == ".jsonl"
    content: Any = (
        [parse_json(row, str(path)) for row in text.splitlines() if row]
        if lines
        else parse_json(text, str(path))
    )
    if isinstance(content, list) and content and all(isinstance(r, dict) for r in content):
        return _group_by_split(path, content)
    if isinstance(content, dict) and "train" not in content:
        if key is None or key not in content:
            what = (
                explain_unknown("subset", key, content)
                if key
                else f"There is: {', '.join(content)}."
            )
            raise InputError(f"{path} holds several subsets, choose with dataset.key=. {what}")
        content = content[key]
    if not isinstance(content, dict) or not isinstance(content.get("train"), list):
        raise InputError(
            f'{path} is no subset: expected {{"train": [...], "val": [...]}}, or lines of '
            '{"path": ..., "label": ..., "split": ...}'
        )
    return content


def _group_by_split(path: Path, rows: list[dict[str, Any]]) -> dict[str, list[Entry]]:
    parts: dict[str, list[Entry]] = {"train": [], "val": []}
    for number, row in enumerate(rows, 1):
        split = row.get("split", "train")
        if split not in parts or "path" not in row:
            raise InputError(
                f"{path}, row {number}: expected a path and the split train or val, not {row}"
            )
        parts[split].append(row)
    return parts


class _Finder:
    """Finds the images that a subset names in the pools of its data set."""

    def __init__(self, path: Path, pools: Splits, context: Context, names: list[str]) -> None:
        self.path, self.pools, self.context, self.names = path, pools, context, names
        self.missing: list[str] = []
        self._by_name: dict[tuple[str, str], list[Item]] = defaultdict(list)
        for split in ("train", "val"):
            for item in getattr(pools, split):
                self._by_name[split, os.path.basename(item.path)].append(item)
        self._by_digest: dict[str, Item] | None = None

    def find_all(self, entries: list[Entry], split: str) -> list[Item]:
        """Return the items of entries; those that are not there are noted."""
        found = [self._find(entry, split) for entry in entries]
        return [item for item in found if item is not None]

    def _find(self, entry: Entry, split: str) -> Item | None:
        match entry:
            case int(position) if not isinstance(entry, bool):
                pool = getattr(self.pools, split)
                what = f"position {position} of {split} ({len(pool)} images)"
                return self._note_missing(
                    pool[position] if 0 <= position < len(pool) else None, what
                )
            case str(name) | [str(name), *_]:
                return self._note_missing(self._find_at(name, split), name)
            case {"path": str(name), **facts}:
                found = self._find_at(name, split) or self._find_digest(facts.get("sha256"))
                self._refuse_other_label(found, name, facts.get("label"))
                return self._note_missing(found, name)
        raise InputError(f"{self.path}: expected a path or a position in {split}, not {entry!r}")

    def refuse_missing(self) -> None:
        """Raise an InputError that lists what was not found."""
        if self.missing:
            raise InputError(
                f"{len(self.missing)} images of {self.path} are not among the training and "
                f"validation images of the data set:\n{list_lines(self.missing)}"
            )

    def _find_at(self, name: str, split: str) -> Item | None:
        tail = os.path.join(os.sep, os.path.normpath(name).lstrip(os.sep))
        for pool in (split, "val" if split == "train" else "train"):
            named = self._by_name[pool, os.path.basename(name)]
            same = [item for item in named if item.path.endswith(tail)]
            if len(same) == 1:
                return same[0]
        return None

    def _find_digest(self, digest: object) -> Item | None:
        # A manifest that was written on another machine names its images by their content.
        if not isinstance(digest, str):
            return None
        if self._by_digest is None:
            items = [*self.pools.train, *self.pools.val]
            found = scan.hash_openable([i.path for i in items], self.context.cache)
            pairs = zip(found, items, strict=True)
            self._by_digest = {known: item for known, item in pairs if known is not None}
        return self._by_digest.get(digest)

    def _refuse_other_label(self, item: Item | None, name: str, label: object) -> None:
        if item and isinstance(label, str) and label != self.names[item.label]:
            raise InputError(
                f"{self.path} says that {name} is {label!r}; in the data set it is "
                f"{self.names[item.label]!r}"
            )

    def _note_missing(self, item: Item | None, what: str) -> Item | None:
        self.missing += [what] * (item is None)
        return item


def _refuse_wrong(path: Path, train: list[Item], val: list[Item], names: list[str]) -> None:
    counts = Counter(item.path for item in (*train, *val))
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise InputError(f"{path} names images twice:\n{list_lines(twice)}")
    absent = set(range(len(names))) - {item.label for item in train}
    if absent:
        classes = ", ".join(names[label] for label in sorted(absent))
        raise InputError(f"{path} has no training image of: {classes}")
