"""A table of images: path and label, and where there are any, split and group (patient, site)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from clip_adapt.config.cards import SPLITS, DataCard
from clip_adapt.config.values import FilePath
from clip_adapt.data.items import Context, Item, Splits
from clip_adapt.data.sources._columns import RECOGNISES, ImageTable, open_table, recognise_table
from clip_adapt.data.splitting import split_by_content
from clip_adapt.errors import InputError, nearest

__all__ = ["RECOGNISES", "read", "recognises"]

recognises = recognise_table


def read(
    card: DataCard,
    context: Context,
    *,
    file: FilePath,
    root: FilePath | None = None,
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
    given = {"image": image, "label": label, "split": split, "group": group}
    table = open_table(context, file, root, given, delimiter, encoding)
    classes = _list_measured(table, card) if context.measures else _list_classes(table, card)
    items = _read_items(table, classes)
    if table.is_split:
        return _split_by_column(table, items, classes, context)
    order = sorted(range(len(items)), key=lambda i: items[i].label)
    return split_by_content(classes, [items[i] for i in order], context, str(table.path))


def _list_classes(table: ImageTable, card: DataCard) -> list[str]:
    counts = Counter(table.read_value(row, "label") for row in table.rows)
    unknown_names = [name for name in card.classes if name not in counts]
    if unknown_names:
        raise InputError(f"no row of {table.path} has the label {', '.join(unknown_names)}")
    others = [name for name in counts if card.classes and name not in card.classes]
    if others:
        raise InputError(
            f"{table.path} has labels that the card's classes do not list: {', '.join(others)}"
        )
    _refuse_single(table, counts)
    return list(card.classes) or _sort_labels(counts)


def _list_measured(table: ImageTable, card: DataCard) -> list[str]:
    # Whatever is there, in the card's order if it names it.
    found = _sort_labels({table.read_value(row, "label") for row in table.rows})
    named = [name for name in card.classes if name in found]
    return [*named, *(name for name in found if name not in named)]


def _sort_labels(labels: Collection[str]) -> list[str]:
    numbers = all(name.isdigit() for name in labels)
    return sorted(labels, key=int if numbers else str)


def _refuse_single(table: ImageTable, counts: Counter[str]) -> None:
    for name, count in counts.items():
        if count == 1:
            line = next(r.line for r in table.rows if table.read_value(r, "label") == name)
            others = [other for other in counts if other != name]
            raise InputError(
                f"{table.path}, line {line}: the label {name!r} stands in one row only"
                f"{nearest(name, others)} A class needs images to train and to test on."
            )
    if len(counts) < 2:
        raise InputError(
            f"{table.path} has one label only, {next(iter(counts))!r}: expected at least two"
        )


def _read_items(table: ImageTable, classes: list[str]) -> list[Item]:
    index = {name: label for label, name in enumerate(classes)}
    items, lines = [], dict[str, int]()
    for row in table.rows:
        path = table.read_path(row)
        if path in lines:
            raise InputError(
                f"{table.path}: {table.read_value(row, 'image')} stands in two rows, lines "
                f"{lines[path]} and {row.line}"
            )
        lines[path] = row.line
        items.append(Item(path, index[table.read_value(row, "label")], table.read_group(row)))
    table.refuse_missing(lines)
    return items


def _split_by_column(
    table: ImageTable, items: list[Item], classes: list[str], context: Context
) -> Splits:
    parts: dict[str, list[Item]] = {split: [] for split in SPLITS}
    for row, item in zip(table.rows, items, strict=True):
        parts[table.read_split(row)].append(item)
    if context.measures:
        return Splits.of(classes, parts)
    table.require_splits(parts)
    untrained = {i.label for i in items} - {i.label for i in parts["train"]}
    if untrained:
        names = ", ".join(classes[label] for label in sorted(untrained))
        raise InputError(f"{table.path} has classes without training images: {names}")
    return Splits.of(classes, parts)
