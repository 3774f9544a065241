"""A table whose rows name images, read row by row: its paths, its splits, its groups.

The sources of labels and of captions share it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from clip_adapt.data.image_paths import ImageFinder
from clip_adapt.data.inventory import Inventory
from clip_adapt.data.items import Context, Item
from clip_adapt.data.sources import _columns
from clip_adapt.data.sources._table import BINARY, Row, TableFile, read_table
from clip_adapt.data.splitting import SPLIT_NAMES, find_split_name
from clip_adapt.errors import InputError, explain_unknown

RECOGNISES = "a table (.csv or .tsv)"
T = TypeVar("T")


def recognise_table(path: Path) -> dict[str, Any] | None:
    """Return what a card would say of a table; one that is no text is refused when it is read."""
    suffixes = (".csv", ".tsv", *BINARY)
    return {"file": str(path)} if path.suffix.lower() in suffixes else None


@dataclass(frozen=True)
class ImageTable:
    """A table whose rows name images.

    Attributes:
        table: its columns and rows.
        columns: the column of each kind (``image``, ``split``, ...), None where there is none.
        folder: what the paths are relative to.
        notes: how the columns were chosen, and what was seen in the rows.
    """

    table: TableFile
    columns: Mapping[str, str | None]
    folder: Path
    notes: tuple[str, ...] = ()

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

    def group_by_path(self) -> dict[str, list[Row]]:
        """Return the rows of each image, which exist.

        Raises:
            InputError: with the lines of images that cannot be used.
        """
        self.refuse_empty("image", frozenset({""}), "Write the path of the image")
        finder = ImageFinder(self.path, self.folder)
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            path = finder.find_path(self.read_value(row, "image"), row.line)
            found.setdefault(path, []).append(row)
        finder.refuse_missing({path: rows[0].line for path, rows in found.items()})
        return found

    def note_copies(self, by_path: Mapping[str, list[Row]]) -> list[str]:
        """Return how many rows say again what another says of the same image."""
        again = [row.line for rows in by_path.values() for row in rows[1:]]
        if not again:
            return []
        return [f"{len(again)} rows repeat another (line {min(again)}): each image counts once"]

    def take_inventory(self, *notes: str) -> Inventory:
        """Return which columns were used, with what a user should know."""
        return Inventory(dict(self.columns), notes=(*self.notes, *self._note_groups(), *notes))

    def read_value(self, row: Row, kind: str) -> str:
        """Return the value of a kind without the space around it."""
        return row[self._column(kind)].strip()

    def refuse_empty(self, kind: str, missing: frozenset[str], remedy: str) -> None:
        """Refuse rows that say nothing of a kind.

        Args:
            kind: which column.
            missing: how it is written, in lower case, that there is no value.
            remedy: what to do.

        Raises:
            InputError: with the lines.
        """
        empty = [r for r in self.rows if self.read_value(r, kind).casefold() in missing]
        if not empty:
            return
        written = sorted({v for row in empty if (v := self.read_value(row, kind))})
        like = f" ({', '.join(written)})" if written else ""
        lines = ", ".join(str(row.line) for row in empty[:20])
        more = f" and {len(empty) - 20} more" if len(empty) > 20 else ""
        raise InputError(
            f"{self.path}: {self._column(kind)} is empty{like} in {len(empty)} rows (lines "
            f"{lines}{more}). {remedy}, or take these rows out."
        )

    def read_only_group(self, rows: Sequence[Row]) -> str | None:
        """Return what an image must stay together with by all its rows; None when nothing is said.

        Raises:
            InputError: with two lines that differ.
        """
        return self._read_only("group", rows, self._read_group)

    def read_only_split(self, rows: Sequence[Row]) -> str:
        """Return the split of an image by all its rows: train, val or test.

        Raises:
            InputError: with the line, when it is none of these, or with two lines that differ.
        """
        return self._read_only("split", rows, self._read_split)

    def require_splits(self, parts: Mapping[str, Sequence[Item]]) -> None:
        """Refuse a table that has nothing to train or to test on.

        Raises:
            InputError: naming the split.
        """
        for split in ("train", "test"):
            if not parts[split]:
                raise InputError(
                    f"{self.path} has no rows of the split {split}. Add some, or leave the column "
                    f"{self.columns['split']!r} out to have the images split by their content: "
                    "dataset.split=null"
                )

    def _read_only(self, kind: str, rows: Sequence[Row], read: Callable[[Row], T]) -> T:
        first = read(rows[0])
        for row in rows[1:]:
            if read(row) != first:
                column = self._column(kind)
                raise InputError(
                    f"{self.path}: the rows of one image differ in {column}, lines {rows[0].line} "
                    f"({rows[0][column]!r}) and {row.line} ({row[column]!r})"
                )
        return first

    def _read_group(self, row: Row) -> str | None:
        column = self.columns["group"]
        return None if column is None or _columns.is_missing(row[column]) else row[column].strip()

    def _read_split(self, row: Row) -> str:
        value, column = self.read_value(row, "split"), self._column("split")
        found = find_split_name(value)
        if found is None:
            known = [name for names in SPLIT_NAMES.values() for name in names]
            wrong = explain_unknown("split", value, known) if value else f"{column} is empty."
            raise InputError(
                f"{self.path}, line {row.line}: {wrong} If {column!r} holds no splits, leave it "
                "out: dataset.split=null"
            )
        return found

    def _column(self, kind: str) -> str:
        column = self.columns[kind]
        assert column is not None, f"the column of the {kind} was found or is not asked for"
        return column

    def _note_groups(self) -> list[str]:
        column = self.columns["group"]
        alone = [r for r in self.rows if self._read_group(r) is None] if column else []
        return [f"{len(alone)} rows have no {column!r}: each image stands for itself"] * bool(alone)


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
        given: the column of each kind as the user named it; None says what it says there.
        delimiter: None takes the most frequent one.
        encoding: of the file.

    Raises:
        InputError: when it cannot be read, or has not the columns that are needed.
    """
    table = read_table(context.place(file), encoding, delimiter)
    kinds = [kind for kind in given if kind in _columns.REQUIRED]
    used: dict[str, str | None] = {k: _columns.choose_column(table, k, given[k]) for k in kinds}
    split = _columns.choose_split(table, given["split"], used)
    used["split"] = split.column
    group = _columns.choose_group(table, given["group"], used)
    used["group"] = group.column
    folder = Path(os.path.abspath(context.place(root) if root else table.path.parent))
    return ImageTable(table, used, folder, (*split.notes, *group.notes))
