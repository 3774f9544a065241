"""A table of captioned images: path and caption, a row each; an image may have several captions.

Where there are any, also split and group (patient, site). Only ``objective=contrastive`` reads it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from clip_adapt.config.cards import SPLITS, DataCard
from clip_adapt.data.items import Context, Item, Splits
from clip_adapt.data.sources._columns import (
    find_column,
    group_of,
    path_of,
    require_splits,
    split_of,
)
from clip_adapt.data.sources._splitting import by_content
from clip_adapt.data.sources._table import Row, Table, read_table
from clip_adapt.errors import InputError, listed

GIVES = "captions"  # every other source gives classes

T = TypeVar("T")


class Caption(str):
    """A caption; ``line`` is its line in the file."""

    __slots__ = ("line",)

    def __new__(cls, text: str, line: int) -> Caption:
        """Make a caption from its text and its line."""
        made = super().__new__(cls, text)
        made.line = line
        return made

    line: int


def read(
    card: DataCard,
    context: Context,
    *,
    file: str,
    root: str | None = None,
    image: str | None = None,
    caption: str | None = None,
    split: str | None = None,
    group: str | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8-sig",
) -> Splits:
    """Read a table of captions; an item holds all captions of its image, and no class.

    Args:
        card: its name and licence; classes do not matter.
        context: where caches and data sets lie.
        file: the table, with a line of column names.
        root: folder that the paths are relative to; None is the table's own.
        image: column of the paths; None takes the first usual name (``image``, ``path``, ...).
        caption: column of the captions; None as above (``caption``, ``text``, ...).
        split: column of train, val and test; None as above, and splits by content without one.
        group: column of what must stay in one split; None as above (``group``, ``patient``, ...).
        delimiter: None takes the most frequent of , ; | and tab in the first line.
        encoding: of the file.

    Raises:
        InputError: with the lines, when something in it cannot be used.
    """
    path = context.place(file)
    table = read_table(path, encoding, delimiter)
    given = {"image": image, "caption": caption, "split": split, "group": group}
    columns = {kind: find_column(table, kind, name) for kind, name in given.items()}
    folder = Path(os.path.abspath(context.place(root) if root else path.parent))
    _refuse_empty(table, columns["caption"] or "")
    by_path = _by_path(table, columns["image"] or "", folder)
    _refuse_missing(table, by_path)
    items = {
        place: Item(place, 0, _group(table, rows, columns["group"]), _captions(rows, columns))
        for place, rows in by_path.items()
    }
    if columns["split"] is None:
        return replace(by_content([""], list(items.values()), context, str(path)), classes=[])
    parts: dict[str, list[Item]] = {name: [] for name in SPLITS}
    for place, rows in by_path.items():
        parts[_split(table, rows, columns["split"])].append(items[place])
    require_splits(table, parts, columns["split"])
    return Splits.of([], parts)


def _refuse_empty(table: Table, column: str) -> None:
    empty = [str(row.line) for row in table.rows if not row[column].strip()]
    if empty:
        shown = ", ".join(empty[:20]) + (f" and {len(empty) - 20} more" if len(empty) > 20 else "")
        raise InputError(
            f"{table.path}: {column} is empty in {len(empty)} rows (lines {shown}). Write what the "
            "images show, or take these rows out."
        )


def _by_path(table: Table, column: str, folder: Path) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in table.rows:
        found.setdefault(path_of(table, row, column, folder), []).append(row)
    return found


def _refuse_missing(table: Table, by_path: dict[str, list[Row]]) -> None:
    gone = [f"line {r[0].line}: {path}" for path, r in by_path.items() if not os.path.isfile(path)]
    if gone:
        raise InputError(f"{len(gone)} images of {table.path} do not exist:\n{listed(gone)}")


def _captions(rows: list[Row], columns: dict[str, str | None]) -> tuple[Caption, ...]:
    # In the order of their rows, each once.
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(" ".join(row[columns["caption"] or ""].split()), row.line)
    return tuple(Caption(text, line) for text, line in first.items())


def _group(table: Table, rows: list[Row], column: str | None) -> str | None:
    return _only(table, rows, column, lambda row: group_of(row, column)) if column else None


def _split(table: Table, rows: list[Row], column: str) -> str:
    return _only(table, rows, column, lambda row: split_of(table, row, column))


def _only(table: Table, rows: list[Row], column: str, value: Callable[[Row], T]) -> T:
    # What all rows of one image say.
    first = value(rows[0])
    for row in rows[1:]:
        if value(row) != first:
            raise InputError(
                f"{table.path}: the rows of one image differ in {column}, lines {rows[0].line} "
                f"({rows[0][column]!r}) and {row.line} ({row[column]!r})"
            )
    return first
