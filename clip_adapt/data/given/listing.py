"""The list of images that Python code gave: a file that a run, and a later one, reads them by."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip_adapt.data.given.labels import name_label, read_text
from clip_adapt.data.given.pictures import PictureStore
from clip_adapt.data.given.rows import SPLIT_OF, Classes, GivenRow, read_rows
from clip_adapt.errors import InputError, explain_unknown, list_lines
from clip_adapt.system.files import write_text
from clip_adapt.system.text.progress import make_bar
from clip_adapt.system.text.showing import write_json

SUFFIX = ".images.json"
FOLDER = "given"  # of the cache

log = logging.getLogger(__name__)

Entry = dict[str, Any]


def write_list(
    images: Any,
    labels: Any = None,
    *,
    groups: Any = None,
    splits: Any = None,
    classes: Classes = None,
    repeats: bool = False,
    cache: Path,
) -> Path:
    """Write the list of images that were given, and those that lie in memory as files beside it.

    Args:
        images: in any of the forms of ``rows.read_rows``.
        labels: as there.
        groups: as there.
        splits: as there.
        classes: names of the classes, by their number or their label.
        repeats: whether a file may be given twice.
        cache: the cache folder.

    Returns:
        the file, which the source ``given`` reads.

    Raises:
        InputError: with one line for what does not fit.
    """
    given = read_rows(images, labels, groups, splits)
    classes = given.classes if classes is None else classes
    store = PictureStore(cache / FOLDER)
    entries = _make_entries(given.rows, classes, store)
    names = _order_classes(entries, classes)
    _refuse_wrong(entries, names, repeats)
    text = write_json({"classes": names, "images": entries})
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    path = cache / FOLDER / f"images-{digest[:8]}{SUFFIX}"
    write_text(path, text)
    if store.count:
        log.info("%d images (%.1f MB) lie in %s", store.count, store.size / 1e6, store.folder)
    return path


def _make_entries(rows: Any, classes: Classes, store: PictureStore) -> list[Entry]:
    entries = []
    with make_bar(None, "taking images", delay=1) as bar:
        for row in rows:
            entries.append(
                {
                    "path": store.place(row.image, row.where),
                    "label": name_label(row.label, row.where, classes),
                    "group": read_text(row.group),
                    "split": _read_split(row),
                }
            )
            bar.update()
    return entries


def _read_split(row: GivenRow) -> str | None:
    name = read_text(row.split)
    if name is not None and name.lower() not in SPLIT_OF:
        raise InputError(f"{row.where}: {explain_unknown('split', name, SPLIT_OF)}")
    return SPLIT_OF[name.lower()] if name is not None else None


def _order_classes(entries: Sequence[Entry], classes: Classes) -> list[str]:
    # As they were given; else as a table's: by number or by alphabet.
    found = {entry["label"] for entry in entries}
    if classes is None:
        return sorted(found, key=int if all(name.isdecimal() for name in found) else str)
    values = classes.values() if hasattr(classes, "values") else classes
    return list(dict.fromkeys(map(str, values)))


def _refuse_wrong(entries: Sequence[Entry], names: Sequence[str], repeats: bool) -> None:
    if not entries:
        raise InputError("there are no images: the list is empty")
    counts = Counter(entry["path"] for entry in entries)
    gone = [path for path in counts if not os.path.isfile(path)]
    if gone:
        raise InputError(f"{len(gone)} images do not exist:\n{list_lines(gone)}")
    twice = [path for path, count in counts.items() if count > 1]
    if twice and not repeats:
        raise InputError(f"{len(twice)} files are given twice:\n{list_lines(twice)}")
    found = {entry["label"] for entry in entries}
    if len(found) < 2:
        only = next(iter(found))
        raise InputError(f"all {len(entries)} images are of one class, {only!r}: two are needed")
    empty = [name for name in names if name not in found]
    if empty:
        raise InputError(
            f"no image is given of the classes {', '.join(empty)}: leave them out of classes, or "
            "give labels by name, labels=[names[i] for i in numbers]"
        )
    split = [e["split"] for e in entries]
    if any(split) and not all(split):
        raise InputError(
            f"{split.count(None)} of {len(split)} images have no split: give train, val or test "
            "for each, or none"
        )
