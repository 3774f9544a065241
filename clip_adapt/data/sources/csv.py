"""A table of images: path and label, and where there are any, split and group (patient, site)."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from clip_adapt.config.cards import SPLITS, DataCard
from clip_adapt.data.items import Context, Item, Splits
from clip_adapt.data.sources._columns import (
    filled,
    find_column,
    group_of,
    path_of,
    require_splits,
    split_of,
)
from clip_adapt.data.sources._splitting import by_content
from clip_adapt.data.sources._table import Table, read_table
from clip_adapt.errors import InputError, listed, nearest


def read(
    card: DataCard,
    context: Context,
    *,
    file: str,
    root: str | None = None,
    image: str | None = None,
    label: str | None = None,
    split: str | None = None,
    group: str | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8-sig",
) -> Splits:
    """Read a table.

    Args:
        card: its ``classes`` give labels their spoken names and their order.
        context: where caches and data sets lie.
        file: the table, with a line of column names.
        root: folder that the paths are relative to; None is the table's own.
        image: column of the paths; None takes the first usual name (``image``, ``path``, ...).
        label: column of the labels; None as above (``label``, ``class``, ...).
        split: column of train, val and test; None as above, and splits by content without one.
        group: column of what must stay in one split; None as above (``group``, ``patient``, ...).
        delimiter: None takes the most frequent of , ; | and tab in the first line.
        encoding: of the file.

    Raises:
        InputError: with the line, when something in it cannot be used.
    """
    path = context.place(file)
    table = read_table(path, encoding, delimiter)
    columns = {
        kind: find_column(table, kind, given)
        for kind, given in {"image": image, "label": label, "split": split, "group": group}.items()
    }
    folder = Path(os.path.abspath(context.place(root) if root else path.parent))
    classes = _classes(table, columns["label"] or "", card)
    items = _items(table, columns, classes, folder)
    if columns["split"] is None:
        order = sorted(range(len(items)), key=lambda i: items[i].label)
        return by_content(classes, [items[i] for i in order], context, str(path))
    return _by_column(table, columns["split"], items, classes)


def _classes(table: Table, column: str, card: DataCard) -> list[str]:
    counts = Counter(filled(table, row, column) for row in table.rows)
    unknown_names = [name for name in card.classes if name not in counts]
    if unknown_names:
        raise InputError(f"no row of {table.path} has the label {', '.join(unknown_names)}")
    others = [name for name in counts if card.classes and name not in card.classes]
    if others:
        raise InputError(
            f"{table.path} has labels that the card's classes do not list: {', '.join(others)}"
        )
    _refuse_single(table, counts, column)
    numbers = all(name.isdigit() for name in counts)
    return list(card.classes) or sorted(counts, key=int if numbers else str)


def _refuse_single(table: Table, counts: Counter[str], column: str) -> None:
    for name, count in counts.items():
        if count == 1:
            line = next(row.line for row in table.rows if row[column].strip() == name)
            others = [other for other in counts if other != name]
            raise InputError(
                f"{table.path}, line {line}: the label {name!r} stands in one row only"
                f"{nearest(name, others)} A class needs images to train and to test on."
            )
    if len(counts) < 2:
        raise InputError(
            f"{table.path} has one label only, {next(iter(counts))!r}: expected at least two"
        )


def _items(
    table: Table, columns: dict[str, str | None], classes: list[str], folder: Path
) -> list[Item]:
    image, label, group = (columns[kind] or "" for kind in ("image", "label", "group"))
    index = {name: i for i, name in enumerate(classes)}
    items, seen, gone = [], dict[str, int](), []
    for row in table.rows:
        path = path_of(table, row, image, folder)
        if path in seen:
            raise InputError(
                f"{table.path}: {row[image]} stands in two rows, lines {seen[path]} and {row.line}"
            )
        seen[path] = row.line
        if not os.path.isfile(path):
            gone.append(f"line {row.line}: {path}")
        items.append(Item(path, index[row[label].strip()], group_of(row, group)))
    if gone:
        raise InputError(f"{len(gone)} images of {table.path} do not exist:\n{listed(gone)}")
    return items


def _by_column(table: Table, column: str, items: list[Item], classes: list[str]) -> Splits:
    parts: dict[str, list[Item]] = {split: [] for split in SPLITS}
    for row, item in zip(table.rows, items, strict=True):
        parts[split_of(table, row, column)].append(item)
    require_splits(table, parts, column)
    untrained = {i.label for i in items} - {i.label for i in parts["train"]}
    if untrained:
        names = ", ".join(classes[label] for label in sorted(untrained))
        raise InputError(f"{table.path} has classes without training images: {names}")
    return Splits.of(classes, parts)
