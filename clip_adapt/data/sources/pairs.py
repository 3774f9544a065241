"""A table of captioned images: path and caption, a row each; an image may have several captions.

Where there are any, also split and group (patient, site). Only ``objective=contrastive`` reads it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from clip_adapt.config.cards import SPLITS, DataCard
from clip_adapt.config.values import AUTO, FilePath
from clip_adapt.data.items import Context, Item, Splits
from clip_adapt.data.sources._columns import MISSING
from clip_adapt.data.sources._image_table import (
    RECOGNISES,
    ImageTable,
    open_table,
    recognise_table,
)
from clip_adapt.data.sources._table import Row
from clip_adapt.data.splitting import split_by_content
from clip_adapt.errors import InputError

__all__ = ["GIVES", "RECOGNISES", "Caption", "read", "recognises"]

GIVES = "captions"
recognises = recognise_table


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
    split: str | None = AUTO,
    group: str | None = AUTO,
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
        split: column of train, val and test; ``auto`` as above, and splits by content without one;
            None uses no column.
        group: column of what must stay in one split; ``auto`` as above (``patient``, ``subject``,
            ``lesion_id``, ``site``, ...); None uses no column.
        delimiter: None takes the most frequent of , ; | and tab in the first line.
        encoding: of the file.

    Raises:
        InputError: with the lines, when something in it cannot be used.
    """
    given = {"image": image, "caption": caption, "split": split, "group": group}
    table = open_table(context, file, root, given, delimiter, encoding)
    table.refuse_empty("caption", MISSING, "Write what the images show")
    by_path = table.group_by_path()
    items = [_make_item(table, path, rows) for path, rows in by_path.items()]
    notes = _note_captions(table, items)
    if not table.is_split:
        made = split_by_content([""], items, context, str(table.path))
        return replace(made, classes=[], inventory=table.take_inventory(*notes))
    parts: dict[str, list[Item]] = {name: [] for name in SPLITS}
    for item in items:
        parts[table.read_only_split(by_path[item.path])].append(item)
    if not context.measures:
        table.require_splits(parts)
    return Splits.of([], parts, table.take_inventory(*notes))


def _make_item(table: ImageTable, path: str, rows: list[Row]) -> Item:
    return Item(path, 0, table.read_only_group(rows), _list_captions(table, rows))


def _list_captions(table: ImageTable, rows: list[Row]) -> tuple[Caption, ...]:
    # In the order of their rows, each once.
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(" ".join(table.read_value(row, "caption").split()), row.line)
    return tuple(Caption(text, line) for text, line in first.items())


def _note_captions(table: ImageTable, items: list[Item]) -> list[str]:
    owners = Counter(str(text) for item in items for text in item.captions)
    shared = {text: count for text, count in owners.items() if count > 1}
    if len(owners) < 2 and len(items) > 1:
        raise InputError(
            f"{table.path}: all {len(items)} images have the caption {next(iter(owners))[:100]!r}, "
            "and nothing tells them apart. Write what each shows."
        )
    if not shared:
        return []
    images = sum(any(text in shared for text in item.captions) for item in items)
    most = max(shared, key=shared.__getitem__)
    return [
        f"{images} of {len(items)} images share a caption with another; the most common, "
        f"{most[:60]!r}, stands at {shared[most]}"
    ]
