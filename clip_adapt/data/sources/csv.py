"""A table of images: path and label, and where there are any, split and group (patient, site)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from clip_adapt.config.cards import SPLITS, DataCard
from clip_adapt.config.values import AUTO, FilePath
from clip_adapt.data.items import Context, Item, Splits
from clip_adapt.data.sources._image_table import (
    RECOGNISES,
    ImageTable,
    open_table,
    recognise_table,
)
from clip_adapt.data.sources._table import Row
from clip_adapt.data.splitting import split_by_content
from clip_adapt.errors import InputError, list_lines, nearest
from clip_adapt.system.text.names import sort_names

__all__ = ["RECOGNISES", "read", "recognises"]

MISSING_LABELS = frozenset({"", "nan", "<na>", "#n/a"})  # "none" may be a finding
recognises = recognise_table


def read(
    card: DataCard,
    context: Context,
    *,
    file: FilePath,
    root: FilePath | None = None,
    image: str | None = None,
    label: str | None = None,
    split: str | None = AUTO,
    group: str | None = AUTO,
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
        split: column of train, val and test; ``auto`` as above, and splits by content without one;
            None uses no column.
        group: column of what must stay in one split; ``auto`` as above (``patient``, ``subject``,
            ``lesion_id``, ``site``, ...); None uses no column.
        delimiter: None takes the most frequent of , ; | and tab in the first line.
        encoding: of the file.

    Raises:
        InputError: with the line, when something in it cannot be used.
    """
    given = {"image": image, "label": label, "split": split, "group": group}
    table = open_table(context, file, root, given, delimiter, encoding)
    table.refuse_empty("label", MISSING_LABELS, "Write what the image shows")
    classes = _list_measured(table, card) if context.measures else _list_classes(table, card)
    by_path = table.group_by_path()
    _refuse_two_labels(table, by_path)
    items = _make_items(table, by_path, classes)
    notes = [*table.note_copies(by_path), *_note_combined(classes)]
    if table.is_split:
        parts = _split_by_column(table, by_path, items, context.measures, classes)
        return Splits.of(classes, parts, table.take_inventory(*notes))
    items.sort(key=lambda item: item.label)
    made = split_by_content(classes, items, context, str(table.path))
    return replace(made, inventory=table.take_inventory(*notes, *made.inventory.notes))


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
    return list(card.classes) or sort_names(counts)


def _list_measured(table: ImageTable, card: DataCard) -> list[str]:
    # Whatever is there, in the card's order if it names it.
    found = sort_names({table.read_value(row, "label") for row in table.rows})
    named = [name for name in card.classes if name in found]
    return [*named, *(name for name in found if name not in named)]


def _refuse_single(table: ImageTable, counts: Counter[str]) -> None:
    for name, count in counts.items():
        if count == 1:
            line = next(r.line for r in table.rows if table.read_value(r, "label") == name)
            others = [other for other in counts if other != name]
            raise InputError(
                f"{table.path}, line {line}: the label {name!r} stands in one row only"
                f"{nearest(name, others)} A class needs images to train and to test on."
                f"{_explain_combined(name)}"
            )
    if len(counts) < 2:
        raise InputError(
            f"{table.path} has one label only, {next(iter(counts))!r}: expected at least two"
        )


def _explain_combined(label: str) -> str:
    if "|" not in label:
        return ""
    return " An image with several labels (|) has no one class: keep the rows that have one."


def _note_combined(classes: list[str]) -> list[str]:
    combined = [name for name in classes if "|" in name]
    if not combined:
        return []
    return [f"{len(combined)} classes combine labels, as {combined[0]!r}: each is one of its own"]


def _refuse_two_labels(table: ImageTable, by_path: dict[str, list[Row]]) -> None:
    wrong = []
    for rows in by_path.values():
        lines = {table.read_value(row, "label"): row.line for row in reversed(rows)}
        if len(lines) > 1:
            said = " and ".join(f"{name!r} (line {n})" for name, n in reversed(lines.items()))
            wrong.append(f"{table.read_value(rows[0], 'image')}: {said}")
    if wrong:
        raise InputError(
            f"{table.path} gives {len(wrong)} images two labels, and an image has one class:\n"
            f"{list_lines(wrong)}\nTake the wrong rows out."
        )


def _make_items(table: ImageTable, by_path: dict[str, list[Row]], classes: list[str]) -> list[Item]:
    index = {name: label for label, name in enumerate(classes)}
    return [
        Item(path, index[table.read_value(rows[0], "label")], table.read_only_group(rows))
        for path, rows in by_path.items()
    ]


def _split_by_column(
    table: ImageTable,
    by_path: dict[str, list[Row]],
    items: list[Item],
    measures: bool,
    classes: list[str],
) -> dict[str, list[Item]]:
    parts: dict[str, list[Item]] = {split: [] for split in SPLITS}
    for item in items:
        parts[table.read_only_split(by_path[item.path])].append(item)
    if not measures:
        table.require_splits(parts)
        _require_training(table, parts, classes)
    return parts


def _require_training(table: ImageTable, parts: dict[str, list[Item]], classes: list[str]) -> None:
    counts = {split: Counter(item.label for item in items) for split, items in parts.items()}
    untrained = [label for label in range(len(classes)) if not counts["train"][label]]
    if untrained:
        lines = [
            f"{classes[label]}: {counts['val'][label]} in val, {counts['test'][label]} in test"
            for label in untrained
        ]
        raise InputError(
            f"{table.path} has classes without training images:\n{list_lines(lines)}\nGive some "
            "of their images the split train, or have the images split by their content: "
            "dataset.split=null"
        )
