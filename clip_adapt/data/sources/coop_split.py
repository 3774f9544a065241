"""Published splits of the CoOp protocol: ``split_zhou_*.json`` and a folder of images.

The file is ``{"train"|"val"|"test": [[path, label, class name], ...]}`` (Zhou et al. 2022); order,
labels and names are used as they stand in it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from clip_adapt.config.cards import SPLITS, DataCard
from clip_adapt.config.values import FilePath
from clip_adapt.data.items import Context, Item, Splits
from clip_adapt.data.sources._fetch import fetch_images
from clip_adapt.errors import InputError, list_lines, nearest
from clip_adapt.system.reading import list_folder, read_json

RECOGNISES = "a split file (split_zhou_*.json)"
PREFIX = "split_zhou_"


def recognises(path: Path) -> dict[str, Any] | None:
    """Return what a card would say of a split file, or of a folder that holds one."""
    if os.path.isdir(path):
        found = list(path.glob(f"{PREFIX}*.json"))
        return {"name": path.resolve().name, "file": str(found[0])} if len(found) == 1 else None
    if path.suffix.lower() == ".json" and path.stem.startswith(PREFIX):
        return {"name": path.stem.removeprefix(PREFIX), "file": str(path)}
    return None


def read(
    card: DataCard,
    context: Context,
    *,
    file: FilePath,
    images: list[FilePath] | None = None,
    fetch: str | None = None,
) -> Splits:
    """Read a split file.

    Args:
        card: its ``classes`` give spoken names to class names of the file.
        context: where data sets lie, and whether a download is allowed.
        file: the split file.
        images: folders in which the images may lie, the first that holds one is taken; None looks
            beside the file and in the folders beside it.
        fetch: the data set of torchvision that brings the images when a download is allowed.

    Raises:
        InputError: when the file or images are missing, or when the file is not of this form.
    """
    path = context.place(file)
    if not os.path.isfile(path):
        raise InputError(_describe_missing(card, f"the split file {path} is missing"))
    rows = _read_rows(path, {"test"} if context.measures else {"train", "test"})
    classes = _list_classes(rows, path)
    _refuse_unknown_names(card, classes, path)
    first = (rows["train"] or rows["test"])[0][0]
    folders = _list_folders(path, images, context)
    folder = _find_holding(folders, first)
    if folder is None and fetch and context.download:
        fetch_images(fetch, context.data)
        folder = _find_holding(folders, first)
    if folder is None:
        looked = list_lines(str(f / first) for f in folders)
        raise InputError(
            _describe_missing(card, f"the images of {path} are missing. Looked for\n{looked}")
        )
    parts = {s: [Item(os.path.join(folder, p), label) for p, label, _ in rows[s]] for s in SPLITS}
    _refuse_missing_images(parts, path, folder)
    return Splits.of(classes, parts)


def _describe_missing(card: DataCard, what: str) -> str:
    return f"{what}\n{card.get}" if card.get else what


def _read_rows(path: Path, needed: set[str]) -> dict[str, list[tuple[str, int, str]]]:
    content = read_json(path)
    if not isinstance(content, dict) or not all(map(content.get, needed)):
        raise InputError(
            f'{path} is no split file: expected {{"train": [[path, label, class name], ...], '
            '"val": [...], "test": [...]}'
        )
    return {split: _read_split(content.get(split, []), split, path) for split in SPLITS}


def _read_split(rows: Any, split: str, path: Path) -> list[tuple[str, int, str]]:
    if not isinstance(rows, list):
        raise InputError(f"{path}: expected a list of [path, label, class name] in {split}")
    return [_check_row(row, split, path) for row in rows]


def _check_row(row: Any, split: str, path: Path) -> tuple[str, int, str]:
    match row:
        case [str(image), int(label), str(name)] if label >= 0:
            if os.path.isabs(image) or os.path.normpath(image).startswith(".."):
                raise InputError(f"{path}: {image!r} in {split} leaves the folder of the images")
            return image, label, name
    raise InputError(f"{path}: expected [path, label, class name] in {split}, not {row!r}")


def _list_classes(rows: dict[str, list[tuple[str, int, str]]], path: Path) -> list[str]:
    names: dict[int, str] = {}
    for of_split in rows.values():
        for image, label, name in of_split:
            if names.setdefault(label, name) != name:
                raise InputError(
                    f"{path} calls label {label} both {names[label]!r} and {name!r} (at {image})"
                )
    absent = [label for label in range(len(names)) if label not in names]
    if absent:
        raise InputError(f"{path} has no images of labels {', '.join(map(str, absent))}")
    return [names[label] for label in range(len(names))]


def _refuse_unknown_names(card: DataCard, classes: list[str], path: Path) -> None:
    # A name of the card fits as it is stored or as it is spoken: some files are renamed already.
    unknown = [
        name
        for name in card.classes
        if name not in classes and card.names_of(name)[0] not in classes
    ]
    if unknown:
        hints = ", ".join(f"{name!r}{nearest(name, classes)}" for name in unknown)
        raise InputError(f"{path} has no class {hints}")


def _list_folders(path: Path, images: list[str] | None, context: Context) -> list[Path]:
    if images is not None:
        return [context.place(folder) for folder in images]
    top = path.absolute().parent
    inside = [p for p in list_folder(top) if p.is_dir() and not p.name.startswith(".")]
    return [top, *inside]


def _find_holding(folders: list[Path], image: str) -> Path | None:
    return next((f.absolute() for f in folders if os.path.isfile(f / image)), None)


def _refuse_missing_images(parts: dict[str, list[Item]], path: Path, folder: Path) -> None:
    gone = [i.path for items in parts.values() for i in items if not os.path.isfile(i.path)]
    if gone:
        raise InputError(
            f"{len(gone)} images that {path} names are missing from {folder}:\n{list_lines(gone)}"
        )
