"""A source of text files that say ``path label`` in a line per image.

    python -m clip_adapt.train dataset=list.txt dataset.source=path_label.py

Paths are relative to the list and may hold spaces; a label is one word.
"""

from __future__ import annotations

from pathlib import Path

from clip_adapt import InputError
from clip_adapt.config.cards import DataCard
from clip_adapt.config.values import FilePath
from clip_adapt.data import Context, Item, Splits, split_by_content

RECOGNISES = "a list of images (.txt)"


def recognises(path: Path) -> dict[str, str] | None:
    """Return what a card would say of a list."""
    return {"file": str(path)} if path.suffix == ".txt" else None


def read(card: DataCard, context: Context, *, file: FilePath, encoding: str = "utf-8") -> Splits:
    """Read a list; ``dataset.file`` and ``dataset.encoding`` are its options."""
    path = context.place(file).absolute()
    if not path.is_file():
        raise InputError(f"the list {path} does not exist")
    lines = [line for line in path.read_text(encoding=encoding).splitlines() if line.strip()]
    rows = [(line.split()[-1], line.rstrip().rpartition(" ")[0]) for line in lines]
    classes = sorted({label for label, _ in rows})
    items = [Item(str(path.parent / image), classes.index(label)) for label, image in rows]
    for item in items:
        if not Path(item.path).is_file():
            raise InputError(f"{path} names {item.path}, which does not exist")
    return split_by_content(classes, items, context, str(path))
