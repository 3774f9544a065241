"""Data sets of the Hugging Face hub or on disk that have an image and a label column.

The images' own bytes are written once into the cache folder, without being encoded anew.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from clip_adapt.config.cards import SPLITS, DataCard
from clip_adapt.config.values import NameOrPath
from clip_adapt.data.inventory import Inventory
from clip_adapt.data.items import Context, Splits
from clip_adapt.data.sources._unpacked import Row, unpack_images
from clip_adapt.data.splitting import SPLIT_NAMES, split_by_content
from clip_adapt.errors import InputError, explain_unknown
from clip_adapt.system.reading import make_path
from clip_adapt.system.text.names import sort_names

SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"GIF8": ".gif",
            b"BM": ".bmp", b"II*\0": ".tif", b"MM\0*": ".tif"}  # fmt: skip


def read(
    card: DataCard,
    context: Context,
    *,
    repo: NameOrPath,
    config: str | None = None,
    revision: str | None = None,
    image: str = "image",
    label: str = "label",
    splits: dict[str, str] | None = None,
) -> Splits:
    """Read a data set with the library ``datasets``.

    Args:
        card: its ``classes`` give the label's names their spoken names.
        context: where caches lie, and whether a download is allowed.
        repo: ``owner/name`` on the hub, or a folder with Parquet files or of ``save_to_disk``.
        config: the configuration of a data set that has several.
        revision: a commit, for results that stay the same.
        image: the column of images.
        label: the column of labels.
        splits: which of its splits is which, ``{train: train, test: validation}``; None goes by
            the names, and a single split is split by content.

    Raises:
        InputError: when the library or the data set is missing, or a column is not what it should.
    """
    found = _load(repo, config, revision, context)
    chosen = _choose_splits(found, splits, repo, context.measures)
    first = next(iter(chosen.values()))
    _require_columns(first, image, label, repo)
    _require_labels(chosen, label, repo)
    classes = _list_classes(chosen, label)
    for name in card.classes:
        if name not in classes:
            raise InputError(explain_unknown(f"class of {repo}", name, classes))
    rows = _make_rows(chosen, image, label, classes)
    prints = " ".join(str(each._fingerprint) for each in chosen.values())
    total = sum(len(each) for each in chosen.values())
    made = unpack_images(context, card.name, prints, classes, rows, total)
    columns = {"image": image, "label": label}
    if len(chosen) > 1 or "train" not in chosen:
        return replace(made, inventory=Inventory(columns))
    items = sorted(made.train, key=lambda item: (item.label, item.path))
    split = split_by_content(classes, items, context, repo)
    return replace(split, inventory=replace(split.inventory, columns=columns))


def _load(repo: str, config: str | None, revision: str | None, context: Context) -> Any:
    try:
        # In a checkout that name is also our folder of cards, which Python imports without a word;
        # only the library has this module.
        importlib.import_module("datasets.load")
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise InputError(
            "source: huggingface needs the package datasets: pip install 'clip-adapt[huggingface]'"
        ) from error
    folder = make_path(repo)
    try:
        if any(os.path.isfile(folder / name) for name in ("dataset_dict.json", "state.json")):
            return datasets.load_from_disk(str(folder))
        local = None if context.download else datasets.DownloadConfig(local_files_only=True)
        return datasets.load_dataset(repo, config, revision=revision, download_config=local)
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        reason = " ".join(str(error).split())[:300]
        remedy = "" if context.download else "\nFetch it with download=true, or give a folder."
        raise InputError(f"{repo} cannot be loaded: {reason}{remedy}") from error


def _choose_splits(
    found: Any, splits: dict[str, str] | None, repo: str, measures: bool
) -> dict[str, Any]:
    # In the order train, val, test; one split alone is called train.
    there = dict(found) if isinstance(found, dict) else {"train": found}
    if splits is None:
        names = {s: n for s in SPLITS for n in reversed(SPLIT_NAMES[s]) if n in there}
        if "test" not in names and len(names) == 2 and not measures:
            raise InputError(
                f"{repo} has the splits {', '.join(there)}. Say which one is tested on: "
                "dataset.splits={train: train, test: validation}"
            )
        known = "test" in names or (measures and len(there) > 1)
        names = names if known else {"train": next(iter(there))}
    else:
        names = dict(splits)
    for split, name in names.items():
        if split not in SPLITS or name not in there:
            kind = "split" if name not in there else "key of dataset.splits"
            raise InputError(explain_unknown(kind, name if name not in there else split, there))
    return {split: there[names[split]] for split in SPLITS if split in names}


def _require_columns(data: Any, image: str, label: str, repo: str) -> None:
    for option, column in (("image", image), ("label", label)):
        if column not in data.column_names:
            raise InputError(
                f"{repo} has no column {column!r} (dataset.{option}={column}). "
                f"It has: {', '.join(data.column_names)}"
            )
    if type(data.features[image]).__name__ != "Image":
        raise InputError(f"the column {image!r} of {repo} holds no images")


def _require_labels(chosen: dict[str, Any], label: str, repo: str) -> None:
    # Sets of a contest come with a test split of which the labels are kept back: -1.
    for split, data in chosen.items():
        named = bool(getattr(data.features[label], "names", None))
        missing = [v for v in data.unique(label) if v is None or (named and v < 0)]
        if missing:
            raise InputError(
                f"{repo} has images without a label in what is {split} here ({label} is "
                f"{missing[0]}). Choose splits that have them: "
                "dataset.splits={train: train, test: validation}"
            )


def _list_classes(chosen: dict[str, Any], label: str) -> list[str]:
    names = getattr(next(iter(chosen.values())).features[label], "names", None)
    if names:
        return list(names)
    values = {str(value) for data in chosen.values() for value in data.unique(label)}
    return sort_names(values)


def _make_rows(
    chosen: dict[str, Any], image: str, label: str, classes: list[str]
) -> Callable[[str], Iterable[Row]]:
    datasets = importlib.import_module("datasets")
    index = {name: position for position, name in enumerate(classes)}

    def rows(split: str) -> Iterator[Row]:
        if split not in chosen:
            return
        data = chosen[split].select_columns([image, label])
        named = bool(getattr(data.features[label], "names", None))
        for number, row in enumerate(data.cast_column(image, datasets.Image(decode=False))):
            if row[image] is None:
                raise InputError(f"row {number} of what is {split} here has no image ({image})")
            content = row[image]["bytes"] or Path(row[image]["path"]).read_bytes()
            yield row[label] if named else index[str(row[label])], _make_saver(content)

    return rows


def _make_saver(content: bytes) -> Callable[[Path], str]:
    def save(path: Path) -> str:
        suffix = next((s for magic, s in SUFFIXES.items() if content.startswith(magic)), ".png")
        with open(f"{path}{suffix}", "wb") as file:
            file.write(content)
        return suffix

    return save
