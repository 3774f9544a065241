"""Splitting images that come without splits, by their content.

The same images fall into the same splits on every machine, whatever their file names; copies of one
image and all images of a group stay together. A class is trained on before it is tested on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from clip_adapt.data import scan
from clip_adapt.data.inventory import Inventory
from clip_adapt.data.items import Context, Item, Splits
from clip_adapt.errors import InputError, list_lines

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
    order = sorted(range(len(items)), key=lambda i: (units[i], digests[i], paths[i]))
    own: list[list[int]] = [[] for _ in classes]
    for i in order:
        own[items[i].label].append(i)
    taken = _assign_units([list(dict.fromkeys(units[i] for i in mine)) for mine in own])
    parts: dict[str, list[Item]] = {"train": [], "val": [], "test": []}
    for mine in own:
        for i in mine:
            parts[taken[units[i]]].append(items[i])
    if not parts["test"]:
        kind = "groups" if any(item.group is not None for item in items) else "images"
        remedy = "; dataset.group=null splits a table image by image" if kind == "groups" else ""
        raise InputError(
            f"{where} has too few {kind} to set some aside for testing: expected at least two "
            f"different {kind} a class{remedy}"
        )
    return Splits.of(classes, parts, Inventory(notes=_note_untested(classes, items, parts)))


def find_split_name(name: str) -> str | None:
    """Return the split that a name stands for, whatever its case: ``Training set`` is ``train``."""
    simple = re.sub(r"[\W_]+", "", name.casefold())
    simple = simple.removesuffix("set") or simple
    return next((split for split, names in SPLIT_NAMES.items() if simple in names), None)


def refuse_untrained(
    name: str, classes: Sequence[str], parts: Mapping[str, Sequence[Item]]
) -> None:
    """Refuse splits in which a class has no training image.

    Raises:
        InputError: naming the classes, and where their images are.
    """
    counts = {split: Counter(item.label for item in items) for split, items in parts.items()}
    lines = [
        f"{spoken}: {counts['val'][label]} in val, {counts['test'][label]} in test"
        for label, spoken in enumerate(classes)
        if not counts["train"][label]
    ]
    if lines:
        raise InputError(
            f"the splits of {name} leave classes without training images:\n{list_lines(lines)}\n"
            "Add training images, or leave these classes out."
        )


def _assign_units(units: list[list[str]]) -> dict[str, str]:
    # The split of each unit, given the units of each class in their order. A unit that holds images
    # of two classes goes where the first of them sends it.
    taken: dict[str, str] = {}
    for mine in units:
        for index, unit in enumerate(mine):
            taken.setdefault(unit, _choose_split(index, len(mine)))
    for mine in units:
        if mine and all(taken[unit] != "train" for unit in mine):
            taken[_choose_for_training(mine, units, taken)] = "train"
    return taken


def _choose_for_training(mine: list[str], units: list[list[str]], taken: dict[str, str]) -> str:
    # Of the units of a class that all went to test or val, the one that the tests miss least: that
    # takes from the fewest classes their last test images, then one of val, then the last.
    tested = [[unit for unit in other if taken[unit] == "test"] for other in units]

    def rank(index: int) -> tuple[int, bool, int]:
        unit = mine[index]
        return sum(left == [unit] for left in tested), taken[unit] == "test", -index

    return mine[min(range(len(mine)), key=rank)]


def _note_untested(
    classes: list[str], items: list[Item], parts: dict[str, list[Item]]
) -> tuple[str, ...]:
    # A class is learned before it is tested: all that there is of one image or group is trained on.
    tested = {item.label for item in parts["test"]}
    untested = [name for label, name in enumerate(classes) if label not in tested]
    if not untested:
        return ()
    kind = "groups" if any(item.group is not None for item in items) else "different images"
    return (f"no test image of {', '.join(untested)}: there are too few {kind} of these classes",)


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
