"""Class folders: ``root/train/cat/1.jpg`` with train, val and test, or ``root/cat/1.jpg`` alone.

Below a class folder everything is read, however deep. A folder without splits is split by the
content of its images, so the same images fall into the same splits on every machine, whatever their
file names; copies of one image stay together.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from clip_adapt.config.cards import DataCard
from clip_adapt.config.values import FilePath
from clip_adapt.data.folders import layout
from clip_adapt.data.folders.layout import UNSPLIT, FolderLayout, Walk
from clip_adapt.data.folders.tree import OWN, look_into, walk_folder
from clip_adapt.data.inventory import Inventory
from clip_adapt.data.items import Context, Item, Splits
from clip_adapt.data.splitting import split_by_content
from clip_adapt.data.task import read_name
from clip_adapt.errors import InputError, nearest
from clip_adapt.system.reading import make_path

RECOGNISES = "a folder of class folders"
ASKED_LAST = True  # any folder may be one
SHOWN = 6  # classes or folders that one message names


def recognises(path: Path) -> dict[str, Any] | None:
    """Return what a card would say of a folder."""
    return {"name": path.resolve().name, "root": str(path)} if os.path.isdir(path) else None


def read(
    card: DataCard,
    context: Context,
    *,
    root: FilePath,
    splits: dict[str, str] | Literal["auto"] | None = "auto",
) -> Splits:
    """Read a folder.

    Args:
        card: its ``classes`` name the class folders to read, all when empty.
        context: where caches and data sets lie.
        root: the folder.
        splits: which folder is which split, ``{train: train, test: val}``; ``auto`` goes by the
            names, None takes every folder for a class.

    Raises:
        InputError: when it does not exist, is empty, has no class folders or one class only, when a
            class has no image, or when it can be read in two ways.
    """
    top = context.place(root) if isinstance(splits, dict) else make_path(root)
    if not os.path.isdir(top):
        raise InputError(_describe_missing(card, top))
    walk: Walk = functools.cache(walk_folder)
    found = _lay_out(top, splits, walk, context.measures)
    list_classes = _list_measured if context.measures else _list_classes
    classes = list_classes(found, card, walk)
    found = _match_classes(found, classes)
    parts = {split: _list_items(part, classes, walk) for split, part in found.classes.items()}
    seen = _take_stock(top, found, classes, walk)
    if not found.is_split:
        split = split_by_content(classes, parts[UNSPLIT], context, str(top))
        notes = (*seen.notes, *split.inventory.notes)
        return replace(split, inventory=replace(seen, notes=notes))
    if not context.measures:
        _require_images(found, parts)
        _refuse_unknown_classes(found, classes, card, walk)
    return Splits.of(classes, {"train": [], "val": [], "test": [], **parts}, seen)


def _describe_missing(card: DataCard, top: Path) -> str:
    text = f"the folder {top} does not exist (looked at {top.absolute()})"
    return f"{text}\n{card.get}" if card.get else text


def _lay_out(
    top: Path, splits: dict[str, str] | Literal["auto"] | None, walk: Walk, measures: bool
) -> FolderLayout:
    if splits is None:
        return layout.lay_out_classes(top)
    if isinstance(splits, dict):
        return layout.lay_out_given(top, splits, measures)
    return layout.find_layout(top, walk, measures)


def _list_classes(found: FolderLayout, card: DataCard, walk: Walk) -> list[str]:
    # Those that are trained on.
    split = "train" if found.is_split else UNSPLIT
    holder, folders = found.holders[split], found.classes[split]
    missing = [name for name in card.classes if name not in folders]
    if missing:
        raise InputError(f"{holder} has no folder for the card's classes {', '.join(missing)}")
    # The folder of runs that a user had written beside his classes is none of them.
    names = list(card.classes or (n for n, p in folders.items() if not _holds_runs(p, walk)))
    empty = [name for name in names if not walk(folders[name]).images]
    classes = [name for name in names if name not in empty]
    if empty:
        _refuse_empty_classes(holder, {n: folders[n] for n in empty}, classes, walk)
    if not classes:
        raise InputError(_describe_empty(holder))
    if len(classes) == 1:
        raise InputError(
            f"{holder} has one class with images, {classes[0]!r}: expected at least two to tell "
            f"apart, one folder each.{_suggest_deeper(folders[classes[0]], walk)}"
        )
    return classes


def _holds_runs(folder: Path, walk: Walk) -> bool:
    tree = walk(folder)
    return not tree.images and tree.ignored[OWN] > 0


def _list_measured(found: FolderLayout, card: DataCard, walk: Walk) -> list[str]:
    # Whatever is there: the classes of any split.
    every = {n: p for part in found.classes.values() for n, p in part.items() if walk(p).images}
    classes = [name for name in (card.classes or sorted(every)) if name in every]
    if not classes:
        raise InputError(_describe_empty(next(iter(found.holders.values()))))
    return classes


def _refuse_empty_classes(
    holder: Path, empty: dict[str, Path], classes: list[str], walk: Walk
) -> None:
    names = [f"{name} ({walk(path).describe_ignored()})" for name, path in empty.items()]
    choice = f", or name the classes to read: dataset.classes='[{', '.join(classes)}]'"
    raise InputError(
        f"{holder} has class folders without an image that can be read: {_list_few(names, 20)}. "
        f"Put images into them, or remove them{choice if len(classes) > 1 else ''}."
    )


def _describe_empty(folder: Path) -> str:
    loose = len(look_into(folder).images)
    hint = f"{loose} images lie in it without a class folder" if loose else "it holds no images"
    return (
        f"{folder} has no classes: {hint}. Expected one folder a class, such as "
        f"{folder / 'cat' / '1.jpg'} and {folder / 'dog' / '2.jpg'}."
    )


def _suggest_deeper(folder: Path, walk: Walk) -> str:
    if len(walk(folder).below) < 2:
        return ""
    return f" If the folders below it are the classes, point at it: dataset={folder}"


def _match_classes(found: FolderLayout, classes: list[str]) -> FolderLayout:
    # test/Cat is the class of train/cat, and a name from a Mac (NFD) that of one from elsewhere.
    spelt = {read_name(name): name for name in classes}
    matched: dict[str, dict[str, Path]] = {}
    notes = list(found.notes)
    for split, folders in found.classes.items():
        part = matched[split] = {n: p for n, p in folders.items() if n in classes}
        for name, path in folders.items():
            same = spelt.get(read_name(name), name)
            if name in classes or same in part:
                part.setdefault(name, path)
                continue
            part[same] = path
            notes += [f"{path} is read as the class {same}"] * (same != name)
    return replace(found, classes=matched, notes=notes)


def _list_items(folders: dict[str, Path], classes: list[str], walk: Walk) -> list[Item]:
    return [
        Item(str(path.absolute()), label)
        for label, name in enumerate(classes)
        if name in folders
        for path in walk(folders[name]).images
    ]


def _require_images(found: FolderLayout, parts: dict[str, list[Item]]) -> None:
    for split in ("train", "test"):
        if not parts[split]:
            holder = found.holders[split]
            loose = len(look_into(holder).images)
            hint = (
                f": {loose} images lie in it without one, so that nobody knows what they show. "
                f"Point at {found.holders['train']} to have that split"
            )
            raise InputError(
                f"{holder} holds no images in its class folders{hint if loose else ''}"
            )


def _refuse_unknown_classes(
    found: FolderLayout, classes: list[str], card: DataCard, walk: Walk
) -> None:
    for split, folders in found.classes.items():
        others = [n for n, p in folders.items() if n not in classes and walk(p).images]
        if others and not card.classes:
            raise InputError(
                f"{found.holders[split]} has classes without training images: {', '.join(others)}"
                f"{nearest(others[0], classes)} Add training images, or remove these folders."
            )


def _take_stock(top: Path, found: FolderLayout, classes: list[str], walk: Walk) -> Inventory:
    parents = [path.parent for part in found.classes.values() for path in part.values()]
    holders = list(dict.fromkeys([top, *found.holders.values(), *parents]))
    ignored = sum((look_into(folder).ignored for folder in holders), Counter[str]())
    used = [
        path
        for folders in found.classes.values()
        for name, path in folders.items()
        if name in classes or _holds_runs(path, walk)
    ]
    ignored += sum((walk(path).ignored for path in used), Counter[str]())
    notes = [*found.notes, *_note_deeper(found, classes, walk)]
    for folder in holders:
        loose = len(look_into(folder).images)
        notes += [
            f"{loose} images lie in {folder} beside the class folders and are not used: they have "
            "no class"
        ] * bool(loose)
    return Inventory(ignored=dict(ignored), notes=(*notes, *_note_unnamed(found, classes, walk)))


def _note_deeper(found: FolderLayout, classes: list[str], walk: Walk) -> list[str]:
    below: dict[str, list[str]] = {}
    for folders in found.classes.values():
        for name in classes:
            if name in folders:
                below.setdefault(name, []).extend(walk(folders[name]).below)
    deep = {name: sorted(set(names)) for name, names in below.items() if names}
    words = [f"{name} ({_list_few(names, 3)})" for name, names in deep.items()]
    return [
        f"images in folders below a class are read as images of that class: "
        f"{_list_few(words, SHOWN)}"
    ] * bool(words)


def _note_unnamed(found: FolderLayout, classes: list[str], walk: Walk) -> list[str]:
    # With dataset.classes a user chooses; what he did not choose is said all the same.
    counts: Counter[str] = Counter()
    for folders in found.classes.values():
        for name, path in folders.items():
            counts[name] += 0 if name in classes else len(walk(path).images)
    left = [f"{name} ({count} images)" for name, count in counts.items() if count]
    return [f"not used, because the classes were named: {_list_few(left, SHOWN)}"] * bool(left)


def _list_few(words: list[str], most: int) -> str:
    rest = [f"and {len(words) - most} more"] if len(words) > most else []
    return ", ".join([*words[:most], *rest])
