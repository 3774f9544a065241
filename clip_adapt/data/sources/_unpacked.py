"""Images that lie in one large file are written once into the cache folder, as files.

Everything else (hashes, features, manifests, the page a person looks at) then works as it does for
images that were files from the start, and memory holds one image at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from clip_adapt.config.cards import SPLITS
from clip_adapt.data.items import Context, Item, Splits
from clip_adapt.system.files import build_folder, write_text
from clip_adapt.system.text.names import make_file_name
from clip_adapt.system.text.progress import make_bar

# A label, and a function that writes the image to a path without suffix and returns the suffix.
Row = tuple[int, Callable[[Path], str]]


def unpack_images(
    context: Context,
    name: str,
    version: str,
    classes: list[str],
    rows: Callable[[str], Iterable[Row]],
    total: int | None = None,
) -> Splits:
    """Return the splits of what is unpacked already, or unpack it.

    Args:
        context: where the cache is.
        name: put into the folder's name.
        version: changes when the images do; the digest of the file that they lie in.
        classes: names as they are stored.
        rows: gives the images of a split.
        total: how many there are, for the progress bar.
    """
    digest = hashlib.sha256(version.encode()).hexdigest()[:16]
    folder = context.cache / "unpacked" / f"{make_file_name(name)}-{digest}"
    if not folder.is_dir():
        _write_all(folder, rows, total)
    parts = {split: list(_list_items(folder, split)) for split in SPLITS}
    return Splits.of(classes, parts)


def _write_all(folder: Path, rows: Callable[[str], Iterable[Row]], total: int | None) -> None:
    with (
        build_folder(folder) as building,
        make_bar(total, "unpacking") as bar,
    ):
        for split in SPLITS:
            text = "".join(_write_split(building, split, rows, bar))
            write_text(building / f"{split}.txt", text)


def _write_split(
    building: Path, split: str, rows: Callable[[str], Iterable[Row]], bar: Any
) -> Iterator[str]:
    # A thousand files a folder: more make some file systems slow.
    for index, (label, write) in enumerate(rows(split)):
        folder = building / split / f"{index // 1000:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        bare = folder / f"{index:06d}"
        suffix = write(bare)
        yield f"{(folder / (bare.name + suffix)).relative_to(building).as_posix()}\t{label}\n"
        bar.update()


def _list_items(folder: Path, split: str) -> Iterator[Item]:
    with open(folder / f"{split}.txt", encoding="utf-8") as file:
        for line in file:
            path, label = line.rstrip("\n").split("\t")
            yield Item(str(folder / path), int(label))
