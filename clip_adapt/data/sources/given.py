"""Images that Python code gave to ``adapt``, by the list of them in the cache folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from clip_adapt.config.cards import SPLITS, DataCard
from clip_adapt.config.values import FilePath
from clip_adapt.data.given.listing import SUFFIX
from clip_adapt.data.inventory import Inventory
from clip_adapt.data.items import Context, Item, Splits
from clip_adapt.data.splitting import split_by_content
from clip_adapt.errors import InputError, explain_unknown
from clip_adapt.system.reading import parse_json, read_text

RECOGNISES = f"a list of given images ({SUFFIX})"
KEYS = ("path", "label", "group", "split")
NUMBERS = (
    "the classes are called {names}, which says nothing to CLIP: give their names, classes=[...]"
)


def recognises(path: Path) -> dict[str, Any] | None:
    """Return what a card would say of such a list."""
    if not path.name.endswith(SUFFIX):
        return None
    return {"file": str(path), "name": path.name.removesuffix(SUFFIX)}


def read(card: DataCard, context: Context, *, file: FilePath, whole: bool = False) -> Splits:
    """Read a list of images.

    Args:
        card: its ``classes`` give labels their spoken names.
        context: where the cache is.
        file: the list, as ``adapt`` has written it.
        whole: every image trains, for code that measures by itself.

    Raises:
        InputError: when it is no such list, or has too few images of a class.
    """
    path = context.place(file)
    classes, rows = _parse(path)
    for name in card.classes:
        if name not in classes:
            raise InputError(explain_unknown("class", name, classes))
    index = {name: label for label, name in enumerate(classes)}
    items = [Item(row["path"], index[row["label"]], row["group"]) for row in rows]
    if whole:
        made = Splits(classes, items, [], [])
    elif rows[0]["split"] is None:
        order = sorted(range(len(items)), key=lambda i: items[i].label)
        made = split_by_content(classes, [items[i] for i in order], context, "the given images")
    else:
        made = _split_as_given(classes, items, [row["split"] for row in rows], context.measures)
    spoken = [card.names_of(name)[0] for name in classes]
    notes = (NUMBERS.format(names=", ".join(spoken)),) * all(name.isdecimal() for name in spoken)
    return replace(made, inventory=Inventory(notes=notes))


def _parse(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    content = parse_json(read_text(path), str(path))
    try:
        rows = [{key: row[key] for key in KEYS} for row in content["images"]]
        assert rows, "a list without images is never written"
        return list(content["classes"]), rows
    except (TypeError, KeyError, AssertionError) as error:
        raise InputError(f"{path} is no list of images that adapt() has written") from error


def _split_as_given(
    classes: list[str], items: list[Item], splits: list[str], measures: bool
) -> Splits:
    parts: dict[str, list[Item]] = {split: [] for split in SPLITS}
    for item, split in zip(items, splits, strict=True):
        parts[split].append(item)
    for split in ("train", "test"):
        if not parts[split] and not measures:
            raise InputError(
                f"no given image is in the split {split}: give some, or leave splits= out to have "
                "the images split by their content"
            )
    return Splits.of(classes, parts)
