"""A table of captioned images: path and caption, a row each; an image may have several captions.

Where there are any, also split and group (patient, site). Only ``objective=contrastive`` reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from clip_adapt.config.cards import SPLITS, DataCard
from clip_adapt.config.values import FilePath
from clip_adapt.data.items import Context, Item, Splits
from clip_adapt.data.sources._columns import RECOGNISES, ImageTable, open_table, recognise_table
from clip_adapt.data.sources._table import Row
from clip_adapt.data.splitting import split_by_content
from clip_adapt.errors import InputError

__all__ = ["GIVES", "RECOGNISES", "Caption", "read", "recognises"]

GIVES = "captions"
recognises = recognise_table

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
    file: FilePath,
    root: FilePath | None = None,
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
    given = {"image": image, "caption": caption, "split": split, "group": group}
    table = open_table(context, file, root, given, delimiter, encoding)
    _refuse_empty(table)
    by_path = _group_by_path(table)
    table.refuse_missing({path: rows[0].line for path, rows in by_path.items()})
    items = {path: _make_item(table, path, rows) for path, rows in by_path.items()}
    if not table.is_split:
        made = split_by_content([""], list(items.values()), context, str(table.path))
        return replace(made, classes=[])
    parts: dict[str, list[Item]] = {name: [] for name in SPLITS}
    for path, rows in by_path.items():
        parts[_read_only(table, rows, "split", table.read_split)].append(items[path])
    if not context.measures:
        table.require_splits(parts)
    return Splits.of([], parts)


def _refuse_empty(table: ImageTable) -> None:
    column = table.columns["caption"] or ""
    empty = [str(row.line) for row in table.rows if not row[column].strip()]
    if empty:
        shown = ", ".join(empty[:20]) + (f" and {len(empty) - 20} more" if len(empty) > 20 else "")
        raise InputError(
            f"{table.path}: {column} is empty in {len(empty)} rows (lines {shown}). Write what the "
            "images show, or take these rows out."
        )


def _group_by_path(table: ImageTable) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in table.rows:
        found.setdefault(table.read_path(row), []).append(row)
    return found


def _make_item(table: ImageTable, path: str, rows: list[Row]) -> Item:
    group = _read_only(table, rows, "group", table.read_group) if table.columns["group"] else None
    return Item(path, 0, group, _list_captions(table, rows))


def _list_captions(table: ImageTable, rows: list[Row]) -> tuple[Caption, ...]:
    # In the order of their rows, each once.
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(" ".join(table.read_value(row, "caption").split()), row.line)
    return tuple(Caption(text, line) for text, line in first.items())


def _read_only(table: ImageTable, rows: list[Row], kind: str, read: Callable[[Row], T]) -> T:
    # What all rows of one image say.
    first = read(rows[0])
    for row in rows[1:]:
        if read(row) != first:
            column = table.columns[kind] or ""
            raise InputError(
                f"{table.path}: the rows of one image differ in {column}, lines {rows[0].line} "
                f"({rows[0][column]!r}) and {row.line} ({row[column]!r})"
            )
    return first
