"""Splitting images that come without splits, by their content.

The same images fall into the same splits on every machine, whatever their file names; copies of one
image and all images of a group stay together.
"""

from __future__ import annotations

from collections.abc import Iterator

from clip_adapt.data import scan
from clip_adapt.data.items import Context, Item, Splits
from clip_adapt.errors import InputError

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
TEST_SHARE = 0.3
VAL_SHARE = 0.1
CLOSED = "f" * 64  # in place of the digest of a file that cannot be opened: it comes last


def split_by_content(classes: list[str], items: list[Item], context: Context, where: str) -> Splits:
    """Set 30 % of each class aside for testing and 10 % for validation.

    Where the data set is only measured on, all images are test images.

    Args:
        classes: names as they are stored.
        items: images, class by class.
        context: where the cache is.
        where: what is being split, for messages.

    Raises:
        InputError: when there are too few images, or groups, to set some aside.
    """
    if context.measures:
        return Splits(classes, [], [], items, unsplit=True)
    paths = [item.path for item in items]
    survey = scan.survey_images(paths, context.cache)
    row = {path: index for index, path in enumerate(survey.paths)}
    digests = [
        scan.hash_openable([path])[0] or CLOSED
        if path in survey.broken
        else survey.sha256[row[path]].tobytes().hex()
        for path in paths
    ]
    units = _find_units(items, digests, survey)
    parts: dict[str, list[Item]] = {"train": [], "val": [], "test": []}
    taken: dict[str, str] = {}
    for label in range(len(classes)):
        mine = [i for i, item in enumerate(items) if item.label == label]
        mine.sort(key=lambda i: (units[i], digests[i], paths[i]))
        different = sorted({units[i] for i in mine})
        for index, unit in enumerate(different):
            taken.setdefault(unit, _choose_split(index, len(different)))
        for i in mine:
            parts[taken[units[i]]].append(items[i])
    if not parts["test"]:
        kind = "groups" if any(item.group is not None for item in items) else "images"
        raise InputError(
            f"{where} has too few {kind} to set some aside for testing: expected at least two "
            f"different {kind} a class"
        )
    return Splits.of(classes, parts)


def _find_units(items: list[Item], digests: list[str], survey: scan.Survey) -> list[str]:
    # Images that must stay together (same bytes, same pixels, same group) share a name: the least
    # digest among them.
    parent = list(range(len(items)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for bond in (digests, _list_pixels(items, survey), [item.group for item in items]):
        first: dict[object, int] = {}
        for index, shared in enumerate(bond):
            if shared is not None:
                parent[root(index)] = root(first.setdefault(shared, index))
    least: dict[int, str] = {}
    for index, digest in enumerate(digests):
        top = root(index)
        least[top] = min(digest, least.get(top, digest))
    return [least[root(index)] for index in range(len(items))]


def _list_pixels(items: list[Item], survey: scan.Survey) -> Iterator[bytes | None]:
    row = {path: index for index, path in enumerate(survey.paths)}
    for item in items:
        broken = item.path in survey.broken
        yield None if broken else survey.pixels[row[item.path]].tobytes()


def _choose_split(index: int, count: int) -> str:
    # Of two different images one is tested on, a single one trains.
    test, val = round(TEST_SHARE * count), round(VAL_SHARE * count)
    return "test" if index < test else "val" if index < test + val else "train"
