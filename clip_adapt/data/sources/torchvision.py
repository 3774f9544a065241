"""Data sets that torchvision can read, and fetch when the user allowed it.

Where torchvision's data set reads files they are used where they lie; CIFAR's arrays are written
once into the cache folder.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from clip_adapt.config.cards import DataCard
from clip_adapt.config.values import FilePath
from clip_adapt.data.items import Context, Item, Splits
from clip_adapt.data.sources._fetch import build_or_refuse
from clip_adapt.data.sources._unpacked import Row, unpack_images
from clip_adapt.data.splitting import split_by_content
from clip_adapt.errors import InputError, explain_unknown
from clip_adapt.system.quiet import ignore_warnings

# Arguments that give each split; a data set without splits is split by its content.
PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "CIFAR10": {"train": {"train": True}, "test": {"train": False}},
    "CIFAR100": {"train": {"train": True}, "test": {"train": False}},
    "Caltech101": {},
    "DTD": {s: {"split": s} for s in ("train", "val", "test")},
    "EuroSAT": {},
    "FGVCAircraft": {s: {"split": s} for s in ("train", "val", "test")},
    "Flowers102": {s: {"split": s} for s in ("train", "val", "test")},
    "Food101": {s: {"split": s} for s in ("train", "test")},
    "OxfordIIITPet": {"train": {"split": "trainval"}, "test": {"split": "test"}},
    "SUN397": {},
    "StanfordCars": {s: {"split": s} for s in ("train", "test")},
}


def read(card: DataCard, context: Context, *, dataset: str, root: FilePath = ".") -> Splits:
    """Read a data set of torchvision.

    Args:
        card: its ``classes`` give torchvision's class names their spoken names.
        context: where data sets lie, and whether a download is allowed.
        dataset: torchvision's name, ``Food101``.
        root: torchvision's ``root``, relative to the folder of data sets.

    Raises:
        InputError: when it is unknown, or missing and no download was allowed.
    """
    if dataset not in PUBLISHED:
        raise InputError(explain_unknown("data set of torchvision", dataset, PUBLISHED))
    place = context.place(root)
    splits = PUBLISHED[dataset] or {"all": {}}
    made = {
        split: _open_split(dataset, place, given, context, card) for split, given in splits.items()
    }
    classes = _list_classes(next(iter(made.values())))
    _refuse_unknown(card, classes, dataset)
    if dataset.startswith("CIFAR"):
        return _unpack_arrays(card, context, made, classes)
    parts = {split: _list_items(each) for split, each in made.items()}
    if "all" in parts:
        items = sorted(parts["all"], key=lambda item: (item.label, item.path))
        return split_by_content(classes, items, context, dataset)
    return Splits(classes, parts["train"], parts.get("val", []), parts["test"])


def _open_split(
    name: str, root: Path, given: dict[str, Any], context: Context, card: DataCard
) -> Any:
    import torchvision.datasets

    cls = getattr(torchvision.datasets, name)
    parameters = inspect.signature(cls).parameters
    # The path instead of the picture: nothing is decoded here.
    own = {"loader": str} if "loader" in parameters else {}
    with ignore_warnings():  # of torchvision's own making
        if context.download:
            return build_or_refuse(
                partial(cls, str(root), download=True, **given, **own), name, root
            )
        try:
            return cls(str(root), **given, **own)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"{name} is not in {root}: {' '.join(str(error).split())}\n"
                f"{card.get or _describe_remedy(name, root)}"
            ) from error


def _describe_remedy(name: str, root: Path) -> str:
    return (
        f"download=true fetches it, as torchvision.datasets.{name}({str(root)!r}, download=True) "
        "would; or put its files where torchvision looks for them, or give dataset.root=FOLDER."
    )


def _list_classes(made: Any) -> list[str]:
    return [str(name) for name in getattr(made, "classes", None) or made.categories]


def _refuse_unknown(card: DataCard, classes: list[str], dataset: str) -> None:
    for name in card.classes:
        if name not in classes:
            raise InputError(explain_unknown(f"class of {dataset}", name, classes))


def _list_items(made: Any) -> list[Item]:
    if hasattr(made, "loader"):
        return [Item(str(Path(path).absolute()), int(label)) for path, label in _list_pairs(made)]
    if hasattr(made, "_images"):  # OxfordIIITPet takes no loader and decodes what it gives
        pairs = zip(made._images, made._labels, strict=True)
        return [Item(str(Path(path).absolute()), int(label)) for path, label in pairs]
    items = []
    for image, label in _list_pairs(made):  # Caltech101 gives pictures that are opened, not read
        with image:
            items.append(Item(str(Path(image.filename).absolute()), int(label)))
    return items


def _list_pairs(made: Any) -> Iterable[tuple[Any, int]]:
    return (made[index] for index in range(len(made)))


def _unpack_arrays(
    card: DataCard, context: Context, made: dict[str, Any], classes: list[str]
) -> Splits:
    def rows(split: str) -> Iterable[Row]:
        return ((label, _make_saver(image)) for image, label in _list_pairs(made.get(split, [])))

    total = sum(len(each) for each in made.values())
    # torchvision checks these files against published digests, so their sizes tell them apart.
    version = f"{card.name} {total}"
    return unpack_images(context, card.name, version, classes, rows, total)


def _make_saver(image: Any) -> Callable[[Path], str]:
    def save(path: Path) -> str:
        image.save(f"{path}.png")
        return ".png"

    return save
