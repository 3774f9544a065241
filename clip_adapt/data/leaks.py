"""Images and groups that stand in two splits, so that a test score would be too good.

And images that stand in two classes, so that one of their labels is wrong.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clip_adapt.data import decoding, scan
from clip_adapt.data.scan import Survey
from clip_adapt.errors import InputError, list_lines
from clip_adapt.system.text.csv_text import write_table as write_csv

if TYPE_CHECKING:
    from clip_adapt.data.items import Item

# Two pictures look alike when 6 of the 64 bits of their pHash differ at most, and 32 of 256 in a
# finer one. Measured: re-encoding (JPEG quality 40 to 90) and scaling (0.5 to 1.5) change 0 to 4
# and 0 to 24 bits; 4,000 different photographs and drawings held 45 pairs within 6 bits, and the
# closest of them differ by 52 of the finer ones.
NEAR, NEAR_FINE = 6, 32
BLOCK = 1 << 22  # hashes compared at once: 32 MB

Parts = Mapping[str, Sequence["Item"]]
Pair = tuple[str, str]


@dataclass(frozen=True)
class Twin:
    """Two images of different splits that look alike; ``distance`` in bits of 256."""

    path: str
    split: str
    twin: str
    twin_split: str
    distance: int


def refuse_pairs(pairs: Sequence[Pair]) -> None:
    """Raise an InputError that lists images which stand in two splits, if there are any."""
    if pairs:
        raise InputError(f"{describe_pairs(pairs)}\nRemove one of each pair.")


def describe_pairs(pairs: Sequence[Pair]) -> str:
    """Return how many images stand in two splits, and which."""
    lines = list_lines(f"{a}  =  {b}" for a, b in pairs)
    return f"{len(pairs)} images stand in two splits, so a test score would be too good:\n{lines}"


def refuse_groups(parts: Parts) -> None:
    """Raise an InputError that lists groups which stand in two splits, if there are any."""
    where: dict[str, set[str]] = defaultdict(set)
    for split, items in parts.items():
        for item in items:
            if item.group is not None:
                where[item.group].add(split)
    shared = [f"{g} (in {', '.join(sorted(s))})" for g, s in where.items() if len(s) > 1]
    if shared:
        raise InputError(
            f"{len(shared)} groups stand in two splits:\n{list_lines(shared)}\n"
            "Keep all images of a group in one split. If a table's column names no group, leave it "
            "out: dataset.group=null"
        )


def describe_two_labels(items: Iterable[Item], classes: Sequence[str], survey: Survey) -> list[str]:
    """Return a note that lists images with the same pixels and two classes; none without any."""
    of_class: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        of_class[classes[item.label] if classes else ""].append(item)
    pairs = find_same_pixels(of_class, survey)
    lines = list_lines(f"{a}  =  {b}" for a, b in pairs)
    what = "images stand in two classes, so a label of each pair is wrong"
    return [f"{len(pairs)} {what}:\n{lines}"] if pairs else []


def find_same_files(parts: Parts, cache: Path | None = None) -> list[Pair]:
    """Return equal files of two splits; only files of equal size are read, and only once."""
    by_size: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for split, items in parts.items():
        for item in items:
            if os.path.exists(item.path):
                by_size[os.stat(item.path).st_size].append((split, item.path))
    rows = [
        row
        for size, same_size in by_size.items()
        if size and len({split for split, _ in same_size}) > 1
        for row in same_size
    ]
    digests = scan.hash_openable([path for _, path in rows], cache)
    pairs = zip(rows, digests, strict=True)
    return _pair_across((*row, digest) for row, digest in pairs if digest is not None)


def find_same_pixels(parts: Parts, survey: Survey) -> list[Pair]:
    """Return images of two parts with the same pixels, whatever their names and formats."""
    row = {path: index for index, path in enumerate(survey.paths)}
    return _pair_across(
        (split, item.path, survey.pixels[row[item.path]].tobytes())
        for split, items in parts.items()
        for item in items
        if item.path not in survey.broken
    )


def _pair_across(rows: Iterable[tuple[str, str, object]]) -> list[Pair]:
    seen: dict[object, tuple[str, str]] = {}
    pairs = []
    for split, path, content in rows:
        first = seen.setdefault(content, (split, path))
        if first[0] != split:
            pairs.append((first[1], path))
    return pairs


def find_near_duplicates(parts: Parts, survey: Survey) -> list[Twin]:
    """Return, for each image, the one of an earlier split that looks most like it, if one does.

    All pairs are compared (a second for 100,000 images); those that pass are looked at again with
    a finer hash.
    """
    row = {path: index for index, path in enumerate(survey.paths)}
    earlier: list[tuple[str, Item]] = []
    twins: list[Twin] = []
    for split, items in parts.items():
        good = [item for item in items if item.path not in survey.broken]
        mine = survey.looks[[row[i.path] for i in good]] if good else survey.looks[:0]
        theirs = survey.looks[[row[i.path] for _, i in earlier]] if earlier else mine[:0]
        for index, other in _find_nearest(mine, theirs):
            there, item = earlier[other]
            twins += _confirm(good[index].path, split, item.path, there)
        earlier += [(split, item) for item in good]
    return twins


def _find_nearest(mine: np.ndarray, theirs: np.ndarray) -> list[tuple[int, int]]:
    # Memory stays at one block, whatever the number of images.
    found: list[tuple[int, int]] = []
    if not len(theirs):
        return found
    step = max(1, BLOCK // len(theirs))
    for start in range(0, len(mine), step):
        differing = np.bitwise_count(mine[start : start + step, None] ^ theirs[None])
        best = differing.argmin(1)
        close = np.flatnonzero(differing[np.arange(len(best)), best] <= NEAR)
        found += [(start + int(i), int(best[i])) for i in close]
    return found


def _confirm(path: str, split: str, twin: str, twin_split: str) -> list[Twin]:
    scan.import_hashing()
    import imagehash

    fine = [imagehash.phash(decoding.decode(p), hash_size=16).hash for p in (path, twin)]
    distance = int((fine[0] != fine[1]).sum())
    return [Twin(path, split, twin, twin_split, distance)] if distance <= NEAR_FINE else []


def format_twins(twins: Sequence[Twin]) -> str:
    """Return near-duplicates as CSV."""
    rows = [(t.path, t.split, t.twin, t.twin_split, t.distance) for t in twins]
    return write_csv([("path", "split", "looks_like", "of_split", "bits_of_256"), *rows])
