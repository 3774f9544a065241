"""From whatever holds images and labels in Python to one row an image.

Kinds are known by what they can do and not by their class, so that no library is imported for it:

    paths, pictures or arrays with labels=    a list, an array (N, H, W, 3), any iterable
    (image, label) pairs                      a list of them, a torch Dataset, any iterable
    columns                                   a dict of lists, a DataFrame
    features                                  a Hugging Face data set
    {"train": ..., "test": ...}               any of these for each split
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from clip_adapt.data.given import labels as labels_
from clip_adapt.data.given.columns import choose_columns
from clip_adapt.data.splitting import SPLIT_NAMES
from clip_adapt.errors import InputError

SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}
NOTHING: Mapping[str, Any] = MappingProxyType({})
Classes = Sequence[str] | Mapping[Any, str] | None


@dataclass(frozen=True)
class GivenRow:
    """One image as it was given; ``where`` names it in messages: ``images[3]``."""

    image: Any
    label: Any
    group: Any = None
    split: Any = None
    where: str = ""


@dataclass(frozen=True)
class GivenRows:
    """All images as they were given, and the names of the classes where their holder has any."""

    rows: Iterable[GivenRow]
    classes: Classes = None


def read_rows(images: Any, labels: Any = None, groups: Any = None, splits: Any = None) -> GivenRows:
    """Return the rows of images and labels in any of the forms above.

    Args:
        images: the images, with their labels or without.
        labels: one for each image, or the name of a column.
        groups: what must stay in one split, one for each image, or the name of a column.
        splits: train, val or test for each image, or the name of a column.

    Raises:
        InputError: when they are of no such form, or are not equally many.
    """
    if _is_split_map(images):
        return _read_splits(images, labels, groups, splits)
    if hasattr(images, "features") and hasattr(images, "column_names"):
        return _read_features(images, labels, groups, splits)
    if isinstance(images, Mapping) or hasattr(images, "columns"):
        return _read_columns(images, labels, groups, splits)
    if isinstance(labels, str):
        raise InputError(
            f"labels={labels!r} names a column, and images is a {type(images).__name__}: give a "
            "DataFrame, a dict of columns or a Hugging Face data set, or one label per image"
        )
    if labels is None:
        return _read_pairs(images, groups, splits)
    return GivenRows(_zip_rows(images, labels, groups, splits))


def _is_split_map(images: Any) -> bool:
    return (
        isinstance(images, Mapping)
        and bool(images)
        and all(isinstance(key, str) and key.strip().lower() in SPLIT_OF for key in images)
    )


def _read_splits(images: Mapping[str, Any], labels: Any, groups: Any, splits: Any) -> GivenRows:
    if splits is not None:
        raise InputError("images are given by split already: leave splits= out")
    for name, value in (("labels", labels), ("groups", groups)):
        if value is not None and not isinstance(value, str):
            raise InputError(
                f'{name}= of images that are given by split stands with them: {{"train": (images, '
                'labels), "test": (images, labels)}'
            )
    parts = {key: _read_part(part, labels, groups) for key, part in images.items()}
    classes = next((part.classes for part in parts.values() if part.classes is not None), None)

    def walk() -> Iterator[GivenRow]:
        for key, part in parts.items():
            for row in part.rows:
                yield replace(row, split=key, where=f"{key} {row.where}")

    return GivenRows(walk(), classes)


def _read_part(part: Any, labels: Any, groups: Any) -> GivenRows:
    # (images, labels) of one split; a tuple of two (image, label) pairs is no such thing.
    if isinstance(part, tuple) and len(part) == 2 and not isinstance(part[1], tuple | str):
        return read_rows(*part)
    return read_rows(part, labels, groups)


def _read_features(data: Any, labels: Any, groups: Any, splits: Any) -> GivenRows:
    features = data.features or {}
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    first = {kind: name for name, kind in reversed(kinds.items())}
    image, label = first.get("Image"), first.get("ClassLabel") if labels is None else labels
    if image is not None:  # the bytes of its files, which nobody decodes and encodes anew
        data = data.cast_column(image, type(features[image])(decode=False))

    def take(column: str) -> Iterator[Any]:
        return (row[column] for row in data)

    names = list(data.column_names or kinds)
    return _zip_columns(names, take, image, label, groups, splits, features)


def _read_columns(table: Any, labels: Any, groups: Any, splits: Any) -> GivenRows:
    if isinstance(table, Mapping):
        _refuse_single_values(table)
    names = list(table if isinstance(table, Mapping) else table.columns)
    return _zip_columns(names, table.__getitem__, None, labels, groups, splits)


def _refuse_single_values(table: Mapping[Any, Any]) -> None:
    for name, column in table.items():
        if isinstance(column, str | bytes) or not _is_many(column):
            raise InputError(
                f"images is a dict, and {labels_.show(name)} in it is {labels_.show(column)}: "
                "expected a list for each column. A dict with a label for each image is given as "
                "images.items()"
            )


def _zip_columns(
    names: Sequence[Any],
    take: Callable[[str], Any],
    image: str | None,
    labels: Any,
    groups: Any,
    splits: Any,
    features: Mapping[str, Any] = NOTHING,
) -> GivenRows:
    given = {"image": image, "label": labels, "group": groups, "split": splits}
    columns = choose_columns(names, take, given)
    values = {
        kind: given[kind] if column is None else take(column) for kind, column in columns.items()
    }
    classes = getattr(features.get(columns["label"]), "names", None)
    rows = _zip_rows(values["image"], values["label"], values["group"], values["split"])
    return GivenRows(rows, classes)


def _read_pairs(images: Any, groups: Any, splits: Any) -> GivenRows:
    items = _iterate(images)
    holders = (images, getattr(images, "dataset", None))  # torch's Subset holds its data set
    found = (getattr(holder, "classes", None) for holder in holders)
    names = next((classes for classes in found if isinstance(classes, list | tuple)), None)

    def walk() -> Iterator[Any]:
        for index, item in enumerate(items):
            if not isinstance(item, tuple | list) or len(item) != 2:
                raise InputError(
                    f"labels are missing: images[{index}] is a {type(item).__name__} and not a "
                    "pair (image, label). Give labels=[...], one for each image, or a folder"
                )
            yield item

    pairs = walk()
    if groups is None and splits is None:
        rows = (GivenRow(i, y, where=f"images[{n}]") for n, (i, y) in enumerate(pairs))
        return GivenRows(rows, names)
    both = list(pairs)
    return GivenRows(_zip_rows([i for i, _ in both], [y for _, y in both], groups, splits), names)


def _iterate(values: Any) -> Iterable[Any]:
    if isinstance(values, set | frozenset):  # the views of a dict have an order, and are taken
        raise InputError(
            "a set has no order, so nothing says which label is of which image, and no run is had "
            "again: give a list"
        )
    if hasattr(values, "__iter__"):
        return values
    if hasattr(values, "__getitem__") and hasattr(values, "__len__"):  # a torch Dataset
        return (values[index] for index in range(len(values)))
    raise InputError(
        f"images is a {type(values).__name__}: expected a folder, a table, a list of images with "
        "labels=[...], a DataFrame, or a data set of (image, label)"
    )


def _zip_rows(images: Any, labels: Any, groups: Any, splits: Any) -> Iterator[GivenRow]:
    # Counted as they come, since a generator has no length before.
    lists = {"images": images, "labels": labels, "groups": groups, "splits": splits}
    for name, values in lists.items():
        single = isinstance(values, str | bytes | Mapping)  # a dict would give its keys
        if single or (values is not None and not _is_many(values)):
            raise InputError(f"{name}={labels_.show(values)}: expected a list, one for each image")
    end = object()
    present = {n: iter(_iterate(v)) for n, v in lists.items() if v is not None}
    index = 0
    while True:
        values = {name: next(it, end) for name, it in present.items()}
        over = [name for name, value in values.items() if value is end]
        if len(over) == len(values):
            return
        if over:
            longer = next(name for name in values if name not in over)
            raise InputError(
                f"{over[0]} has {index} values and {longer} has more: expected one for each image"
            )
        yield GivenRow(
            values["images"], values["labels"], values.get("groups"), values.get("splits"),
            where=f"images[{index}]",
        )  # fmt: skip
        index += 1


def _is_many(values: Any) -> bool:
    return hasattr(values, "__iter__") or hasattr(values, "__len__")
