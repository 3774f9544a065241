"""What the columns of a table of images are called, and reading one value of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from clip_adapt.data.items import Item
from clip_adapt.data.sources._splitting import SPLIT_NAMES
from clip_adapt.data.sources._table import Row, Table
from clip_adapt.errors import InputError, nearest, unknown

USUAL = {
    "image": ("image", "path", "file", "filename", "filepath", "image_path", "img"),
    "label": ("label", "class", "target", "category", "diagnosis"),
    "caption": ("caption", "captions", "text", "title", "description", "report", "sentence"),
    "split": ("split", "fold", "set", "subset"),
    "group": ("group", "patient", "patient_id", "subject", "subject_id"),
}
REQUIRED = ("image", "label", "caption")


def find_column(table: Table, kind: str, given: str | None) -> str | None:
    """Return the column of a kind: the given one, else the first usual name; None without one.

    Raises:
        InputError: when the given one does not exist, or none is there and one is needed.
    """
    if given is not None:
        if given not in table.columns:
            raise InputError(
                f"{table.path} has no column {given!r} (dataset.{kind}={given})"
                f"{nearest(given, table.columns)} It has: {', '.join(table.columns)}"
            )
        return given
    found = _usual(table, kind)
    if found is None and kind in REQUIRED:
        raise InputError(
            f"{table.path} has no column for the {kind}: it has {', '.join(table.columns)}. "
            f"Name one of these {USUAL[kind][0]!r}, or say which it is: dataset.{kind}=COLUMN"
            f"{_other_objective(table, kind)}"
        )
    return found


def filled(table: Table, row: Row, column: str) -> str:
    """Return a value without the space around it.

    Raises:
        InputError: with the line, when it is empty.
    """
    value = row[column].strip()
    if not value:
        raise InputError(f"{table.path}, line {row.line}: {column} is empty")
    return value


def path_of(table: Table, row: Row, column: str, folder: Path) -> str:
    """Return the path of a row's image, which lies in the folder.

    Raises:
        InputError: with the line, when it is empty or leaves the folder.
    """
    given = filled(table, row, column)
    path = os.path.normpath(os.path.join(folder, given.replace("\\", "/")))
    if not path.startswith(os.path.join(folder, "")):
        raise InputError(
            f"{table.path}, line {row.line}: {given!r} leaves the folder {folder}. If the images "
            "lie elsewhere, say where: dataset.root=FOLDER"
        )
    return path


def group_of(row: Row, column: str | None) -> str | None:
    """Return what a row's image must stay together with; None when nothing is said."""
    return (row[column].strip() or None) if column else None


def split_of(table: Table, row: Row, column: str) -> str:
    """Return the split of a row: train, val or test.

    Raises:
        InputError: with the line, when it is none of these.
    """
    known = {name: split for split, names in SPLIT_NAMES.items() for name in names}
    value = filled(table, row, column)
    if value.lower() not in known:
        raise InputError(f"{table.path}, line {row.line}: {unknown('split', value, known)}")
    return known[value.lower()]


def require_splits(table: Table, parts: Mapping[str, Sequence[Item]], column: str) -> None:
    """Refuse a table that has nothing to train or to test on.

    Raises:
        InputError: naming the split.
    """
    for split in ("train", "test"):
        if not parts[split]:
            raise InputError(
                f"{table.path} has no rows of the split {split}. Add some, or leave the column "
                f"{column!r} out to have the images split by their content."
            )


def _usual(table: Table, kind: str) -> str | None:
    lower = {name.lower(): name for name in table.columns}
    return next((lower[name] for name in USUAL[kind] if name in lower), None)


def _other_objective(table: Table, kind: str) -> str:
    if kind == "label" and _usual(table, "caption"):
        return "; or train on its captions: objective=contrastive"
    if kind == "caption" and _usual(table, "label"):
        return "; or train on its labels: objective=classify"
    return ""
