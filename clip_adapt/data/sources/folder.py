"""Class folders: ``root/train/cat/1.jpg`` with train, val and test, or ``root/cat/1.jpg`` alone.

A folder without splits is split by the content of its images, so the same images fall into the same
splits on every machine, whatever their file names; copies of one image stay together.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from clip_adapt.config.cards import DataCard
from clip_adapt.config.values import FilePath
from clip_adapt.data.decoding import SUFFIXES
from clip_adapt.data.items import Context, Item, Splits
from clip_adapt.data.splitting import SPLIT_NAMES, split_by_content
from clip_adapt.errors import InputError
from clip_adapt.system.reading import list_folder, make_path

RECOGNISES = "a folder of class folders"
ASKED_LAST = True  # any folder may be one


def recognises(path: Path) -> dict[str, Any] | None:
    """Return what a card would say of a folder."""
    return {"name": path.resolve().name, "root": str(path)} if os.path.isdir(path) else None


def read(
    card: DataCard,
    context: Context,
    *,
    root: FilePath,
    splits: dict[str, str] | None = None,
) -> Splits:
    """Read a folder.

    Args:
        card: its ``classes`` name the class folders to read, all when empty.
        context: where caches and data sets lie.
        root: the folder.
        splits: which folder is which split, ``{train: train, test: val}``; None goes by the names.

    Raises:
        InputError: when it does not exist, is empty, has no class folders or one class only.
    """
    top = context.place(root) if splits else make_path(root)
    if not os.path.isdir(top):
        raise InputError(_describe_missing(card, top))
    needed = set() if context.measures else {"train", "test"}
    folders = _find_split_folders(top, splits, needed)
    if context.measures:
        return _read_measured(top, folders, card, context)
    if folders["train"] is None:
        classes = _list_classes(top, card)
        return split_by_content(classes, _list_items(top, classes), context, str(top))
    return _read_splits(top, folders, card)


def _read_measured(
    top: Path, folders: dict[str, Path | None], card: DataCard, context: Context
) -> Splits:
    # Whatever is there: some of the splits or none of them, and the classes of any.
    there = [folder for folder in folders.values() if folder and os.path.isdir(folder)] or [top]
    named = [p.name for folder in there for p in list_folder(folder) if _has_images(p)]
    classes = [name for name in (card.classes or sorted(set(named))) if name in named]
    if not classes:
        raise InputError(_describe_empty(there[0]))
    if there == [top]:
        return split_by_content(classes, _list_items(top, classes), context, str(top))
    return Splits.of(classes, {s: _list_items(f, classes) if f else [] for s, f in folders.items()})


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and folder.name[0] != "." and bool(_list_images(folder))


def _describe_missing(card: DataCard, top: Path) -> str:
    text = f"the folder {top} does not exist (looked at {top.absolute()})"
    return f"{text}\n{card.get}" if card.get else text


def _find_split_folders(
    top: Path, splits: dict[str, str] | None, needed: set[str]
) -> dict[str, Path | None]:
    if splits is None:
        return {split: _find_split_folder(top, split) for split in SPLIT_NAMES}
    unknown = [key for key in splits if key not in SPLIT_NAMES]
    if unknown or not needed <= splits.keys():
        raise InputError(f"dataset.splits={splits}: expected {{train: FOLDER, test: FOLDER}}")
    return {s: top / splits[s] if s in splits else None for s in SPLIT_NAMES}


def _read_splits(top: Path, folders: dict[str, Path | None], card: DataCard) -> Splits:
    train = folders["train"]
    assert train is not None, "a folder without train is split by content"
    if folders["test"] is None:
        raise InputError(
            f"{top} has a train folder and no test folder. Put the images to be tested on into "
            f"{top / 'test'}, one folder a class; or point at {train} to have it split."
        )
    classes = _list_classes(train, card)
    parts = {s: _list_items(f, classes) if f else [] for s, f in folders.items()}
    for split in ("train", "test"):
        if not parts[split]:
            raise InputError(f"{folders[split]} holds no images in its class folders")
    _refuse_unknown_classes(folders, classes, card)
    return Splits(classes, parts["train"], parts["val"], parts["test"])


def _find_split_folder(top: Path, split: str) -> Path | None:
    return next((top / name for name in SPLIT_NAMES[split] if os.path.isdir(top / name)), None)


def _list_classes(folder: Path, card: DataCard) -> list[str]:
    found = sorted(p.name for p in list_folder(folder) if p.is_dir() and not p.name.startswith("."))
    missing = [name for name in card.classes if name not in found]
    if missing:
        raise InputError(f"{folder} has no folder for the card's classes {', '.join(missing)}")
    classes = [name for name in (card.classes or found) if _list_images(folder / name)]
    if not classes:
        raise InputError(_describe_empty(folder))
    if len(classes) == 1:
        raise InputError(
            f"{folder} has one class with images, {classes[0]!r}: expected at least two to tell "
            "apart, one folder each."
        )
    return classes


def _describe_empty(folder: Path) -> str:
    loose = len(_list_images(folder))
    hint = f"{loose} images lie in it without a class folder" if loose else "it holds no images"
    return (
        f"{folder} has no classes: {hint}. Expected one folder a class, such as "
        f"{folder / 'cat' / '1.jpg'} and {folder / 'dog' / '2.jpg'}."
    )


def _list_images(folder: Path) -> list[Path]:
    return [
        path
        for path in list_folder(folder)
        if path.suffix.lower() in SUFFIXES and path.name[0] != "." and os.path.isfile(path)
    ]


def _list_items(folder: Path, classes: list[str]) -> list[Item]:
    return [
        Item(str(path.absolute()), label)
        for label, name in enumerate(classes)
        if os.path.isdir(folder / name)
        for path in _list_images(folder / name)
    ]


def _refuse_unknown_classes(
    folders: dict[str, Path | None], classes: list[str], card: DataCard
) -> None:
    for folder in filter(None, folders.values()):
        others = [p.name for p in list_folder(folder) if p.is_dir() and p.name not in classes]
        others = [n for n in others if _list_images(folder / n)] if not card.classes else []
        if others:
            raise InputError(
                f"{folder} has classes without training images: {', '.join(sorted(others))}. "
                "Add training images, or remove these folders."
            )
