"""A table of images: which column holds what, and reading one value of a row.

The sources of labels and of captions share it: paths, splits and groups are the same in both.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_adapt.data.items import Context, Item
from clip_adapt.data.sources._table import Row, TableFile, read_table
from clip_adapt.data.splitting import SPLIT_NAMES
from clip_adapt.errors import InputError, explain_unknown, list_lines, nearest

RECOGNISES = "a table (.csv or .tsv)"
USUAL = {
    "image": ("image", "path", "file", "filename", "filepath", "image_path", "img"),
    "label": ("label", "class", "target", "category", "diagnosis"),
    "caption": ("caption", "captions", "text", "title", "description", "report", "sentence"),
    "split": ("split", "fold", "set", "subset"),
    "group": ("group", "patient", "patient_id", "subject", "subject_id"),
}
REQUIRED = ("image", "label", "caption")


def recognise_table(path: Path) -> dict[str, Any] | None:
    """Return what a card would say of a table."""
    return {"file": str(path)} if path.suffix.lower() in (".csv", ".tsv") else None


@dataclass(frozen=True)
class ImageTable:
    """A table whose rows name images.

    Attributes:
        table: its columns and rows.
        columns: the column of each kind (``image``, ``split``, ...), None where there is none.
        folder: what the paths are relative to.
    """

    table: TableFile
    columns: Mapping[str, str | None]
    folder: Path

    @property
    def path(self) -> Path:
        """Its file."""
        return self.table.path

    @property
    def rows(self) -> list[Row]:
        """Its rows."""
        return self.table.rows

    @property
    def is_split(self) -> bool:
        """Whether it says which split an image is in."""
        return self.columns["split"] is not None

    def read_value(self, row: Row, kind: str) -> str:
        """Return the value of a kind without the space around it.

        Raises:
            InputError: with the line, when it is empty.
        """
        column = self._column(kind)
        value = row[column].strip()
        if not value:
            raise InputError(f"{self.path}, line {row.line}: {column} is empty")
        return value

    def read_path(self, row: Row) -> str:
        """Return the path of a row's image, which lies in the folder.

        Raises:
            InputError: with the line, when it is empty or leaves the folder.
        """
        given = self.read_value(row, "image")
        path = os.path.normpath(os.path.join(self.folder, given.replace("\\", "/")))
        if not path.startswith(os.path.join(self.folder, "")):
            raise InputError(
                f"{self.path}, line {row.line}: {given!r} leaves the folder {self.folder}. If the "
                "images lie elsewhere, say where: dataset.root=FOLDER"
            )
        return path

    def read_group(self, row: Row) -> str | None:
        """Return what a row's image must stay together with; None when nothing is said."""
        column = self.columns["group"]
        return (row[column].strip() or None) if column else None

    def read_split(self, row: Row) -> str:
        """Return the split of a row: train, val or test.

        Raises:
            InputError: with the line, when it is none of these.
        """
        known = {name: split for split, names in SPLIT_NAMES.items() for name in names}
        value = self.read_value(row, "split")
        if value.lower() not in known:
            raise InputError(
                f"{self.path}, line {row.line}: {explain_unknown('split', value, known)}"
            )
        return known[value.lower()]

    def refuse_missing(self, lines: Mapping[str, int]) -> None:
        """Refuse images that do not exist; ``lines`` holds the line of each path.

        Raises:
            InputError: listing them.
        """
        gone = [f"line {n}: {path}" for path, n in lines.items() if not os.path.isfile(path)]
        if gone:
            raise InputError(f"{len(gone)} images of {self.path} do not exist:\n{list_lines(gone)}")

    def require_splits(self, parts: Mapping[str, Sequence[Item]]) -> None:
        """Refuse a table that has nothing to train or to test on.

        Raises:
            InputError: naming the split.
        """
        for split in ("train", "test"):
            if not parts[split]:
                raise InputError(
                    f"{self.path} has no rows of the split {split}. Add some, or leave the column "
                    f"{self.columns['split']!r} out to have the images split by their content."
                )

    def _column(self, kind: str) -> str:
        column = self.columns[kind]
        assert column is not None, f"the column of the {kind} was found or is not asked for"
        return column


def open_table(
    context: Context,
    file: str,
    root: str | None,
    given: Mapping[str, str | None],
    delimiter: str | None,
    encoding: str,
) -> ImageTable:
    """Read a table and find its columns.

    Args:
        context: where data sets lie.
        file: the table.
        root: folder that the paths are relative to; None is the table's own.
        given: the column of each kind, as the user named it or None.
        delimiter: None takes the most frequent one.
        encoding: of the file.

    Raises:
        InputError: when it cannot be read, or has not the columns that are needed.
    """
    table = read_table(context.place(file), encoding, delimiter)
    columns = {kind: find_column(table, kind, name) for kind, name in given.items()}
    folder = Path(os.path.abspath(context.place(root) if root else table.path.parent))
    return ImageTable(table, columns, folder)


def find_column(table: TableFile, kind: str, given: str | None) -> str | None:
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
    found = _find_usual(table, kind)
    if found is None and kind in REQUIRED:
        raise InputError(
            f"{table.path} has no column for the {kind}: it has {', '.join(table.columns)}. "
            f"Name one of these {USUAL[kind][0]!r}, or say which it is: dataset.{kind}=COLUMN"
            f"{_suggest_objective(table, kind)}"
        )
    return found


def _find_usual(table: TableFile, kind: str) -> str | None:
    lower = {name.lower(): name for name in table.columns}
    return next((lower[name] for name in USUAL[kind] if name in lower), None)


def _suggest_objective(table: TableFile, kind: str) -> str:
    if kind == "label" and _find_usual(table, "caption"):
        return "; or train on its captions: objective=contrastive"
    if kind == "caption" and _find_usual(table, "label"):
        return "; or train on its labels: objective=classify"
    return ""
