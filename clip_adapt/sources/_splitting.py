"""Splitting images that come without splits, by their content.

The same images fall into the same splits on every machine, whatever their file names; copies of one
image and all images of a group stay together.
"""

from __future__ import annotations

from collections.abc import Iterable

from clip_adapt import scan
from clip_adapt.data import Context, Item, Splits
from clip_adapt.errors import InputError

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
TEST_SHARE = 0.3
VAL_SHARE = 0.1


def by_content(classes: list[str], items: list[Item], context: Context, where: str) -> Splits:
    """Set 30 % of each class aside for testing and 10 % for validation.

    Args:
        classes: names as they are stored.
        items: images, class by class.
        context: where the cache is.
        where: what is being split, for messages.

    Raises:
        InputError: when there are too few images, or groups, to set some aside.
    """
    paths = [item.path for item in items]
    digests = scan.digests(paths, context.cache)
    units = _units(items, digests, scan.survey(paths, context.cache))
    parts: dict[str, list[Item]] = {"train": [], "val": [], "test": []}
    taken: dict[str, str] = {}
    for label in range(len(classes)):
        mine = [i for i, item in enumerate(items) if item.label == label]
        mine.sort(key=lambda i: (units[i], digests[i], paths[i]))
        different = sorted({units[i] for i in mine})
        for index, unit in enumerate(different):
            taken.setdefault(unit, _split_of(index, len(different)))
        for i in mine:
            parts[taken[units[i]]].append(items[i])
    if not parts["test"]:
        kind = "groups" if any(item.group is not None for item in items) else "images"
        raise InputError(
            f"{where} has too few {kind} to set some aside for testing: expected at least two "
            f"different {kind} a class"
        )
    return Splits.of(classes, parts)


def _units(items: list[Item], digests: list[str], survey: scan.Survey) -> list[str]:
    # Images that must stay together share a name: the least digest among them.
    parent: dict[object, object] = {}

    def root(key: object) -> object:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    row = {path: index for index, path in enumerate(survey.paths)}
    for item, digest in zip(items, digests, strict=True):
        for other in _bonds(item, row, survey):
            parent[root(other)] = root(digest)
    least: dict[object, str] = {}
    for digest in digests:
        top = root(digest)
        least[top] = min(digest, least.get(top, digest))
    return [least[root(digest)] for digest in digests]


def _bonds(item: Item, row: dict[str, int], survey: scan.Survey) -> Iterable[object]:
    if item.path not in survey.broken:
        yield survey.pixels[row[item.path]].tobytes()
    if item.group is not None:
        yield ("group", item.group)


def _split_of(index: int, count: int) -> str:
    test = max(1, round(TEST_SHARE * count)) if count > 1 else 0
    val = round(VAL_SHARE * count)
    return "test" if index < test else "val" if index < test + val else "train"
