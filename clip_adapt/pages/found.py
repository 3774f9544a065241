"""What was found in a run's data: counts for metrics.json, and text for a terminal and a page."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.cells import cell_len, set_cell_size

from clip_adapt.config.cards import SPLITS
from clip_adapt.data.dataset import Dataset
from clip_adapt.data.inventory import list_counts
from clip_adapt.data.items import Item
from clip_adapt.data.scan import Survey
from clip_adapt.system.text.showing import show_line

MOST = 24  # classes that are shown one by one; of more the first few are
FEW = 10
WIDEST, NARROWEST = 40, 12  # columns of a terminal that names of classes take

Found = dict[str, Any]  # ``found`` of metrics.json


def describe_found(dataset: Dataset, survey: Survey, unreadable: int) -> Found:
    """Return what metrics.json says of the data: counts, and no label of a test image.

    Args:
        dataset: what is left of it to be used.
        survey: what was seen of its images.
        unreadable: how many images cannot be read and were left out.
    """
    parts = dataset.parts()
    labels = {split: Counter(item.label for item in items) for split, items in parts.items()}
    return {
        "dataset": dataset.name,
        "classes": {
            name: {split: labels[split][label] for split in SPLITS}
            for label, name in enumerate(dataset.classes)
        },
        "total": {split: len(items) for split, items in parts.items()},
        "groups": _count_groups(parts),
        "columns": dict(dataset.inventory.columns),
        "ignored": dict(dataset.inventory.ignored),
        "unreadable": unreadable,
        "pixels": _measure_sizes(parts, survey),
    }


def write_found(found: Found, width: int) -> str:
    """Return what was found as text: a table of classes and splits, and a line for the rest.

    Args:
        found: ``found`` of metrics.json.
        width: of the terminal, in columns.
    """
    name = show_line(found["dataset"])
    count = sum(found["total"].values())
    classes = f"{len(found['classes'])} classes, " if found["classes"] else ""
    lines = [f"found: {name}, {classes}{count:,} images", *_write_table(found, width)]
    for line in list_facts(found):
        lines += textwrap.wrap(line, max(width, 40), initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def list_facts(found: Found) -> list[str]:
    """Return what was found besides the images of each class, one line each."""
    lines = [_describe_groups(found["groups"])]
    if found["columns"]:
        known = [f"{kind} is {name!r}" for kind, name in found["columns"].items() if name]
        none = [kind for kind, name in found["columns"].items() if not name]
        left = [f"none for {' and '.join(none)}"] * bool(none)
        lines.append(f"columns: {', '.join([*known, *left])}")
    if found["pixels"]:
        small, middle, large = (
            f"{w} x {h}" for w, h in (found["pixels"][k] for k in ("smallest", "median", "largest"))
        )
        apart = f"{small} to {large}, median {middle}"
        lines.append(f"pixels: {f'all {small}' if small == large else apart}")
    if found["ignored"]:
        lines.append(f"ignored: {list_counts(found['ignored'])}")
    if found["unreadable"]:
        lines.append(f"unreadable and left out: {found['unreadable']}")
    return [show_line(line) for line in lines]


def _describe_groups(groups: Mapping[str, int] | None) -> str:
    if groups is None:
        return "groups: none are known, so images of one patient may stand in two splits"
    listed = ", ".join(f"{count} in {split}" for split, count in groups.items())
    return f"groups: {sum(groups.values())} ({listed}), none of them in two splits"


def _write_table(found: Found, width: int) -> list[str]:
    classes = list(found["classes"].items())
    shown = classes if len(classes) <= MOST else classes[:FEW]
    rows = [(show_line(name), counts) for name, counts in shown] + [("total", found["total"])]
    numbers = max(6, *(len(f"{count:,}") + 1 for count in found["total"].values()))
    room = max(NARROWEST, min(WIDEST, width - 3 - numbers * len(SPLITS)))
    names = min(room, max(cell_len(name) for name, _ in rows))
    lines = [_write_row("", dict(zip(SPLITS, SPLITS, strict=True)), names, numbers)]
    lines += [_write_row(name, counts, names, numbers) for name, counts in rows]
    if len(shown) < len(classes):
        lines.insert(-1, f"  {_describe_rest(classes[FEW:])}")
    return lines


def _write_row(name: str, cells: Mapping[str, Any], names: int, numbers: int) -> str:
    fits = cell_len(name) <= names
    cut = set_cell_size(name, names) if fits else f"{set_cell_size(name, names - 3)}..."
    texts = [f"{cell:,}" if isinstance(cell, int) else cell for cell in cells.values()]
    return f"  {cut}{''.join(text.rjust(numbers) for text in texts)}"


def _describe_rest(rest: list[tuple[str, dict[str, int]]]) -> str:
    counts = [count["train"] for _, count in rest]
    return (
        f"... and {len(rest)} more classes, {min(counts):,} to {max(counts):,} images to train on"
    )


def _count_groups(parts: Mapping[str, list[Item]]) -> dict[str, int] | None:
    names = {s: {i.group for i in items if i.group is not None} for s, items in parts.items()}
    return {s: len(found) for s, found in names.items()} if any(names.values()) else None


def _measure_sizes(parts: Mapping[str, list[Item]], survey: Survey) -> dict[str, list[int]] | None:
    # Of the files that are used; by area, and of equal ones the narrower first.
    used = {item.path for items in parts.values() for item in items}
    rows = [i for i, path in enumerate(survey.paths) if path in used and path not in survey.broken]
    if not rows:
        return None
    sizes = survey.sizes[rows].astype(np.int64)  # (M, 2)
    order = np.lexsort((sizes[:, 0], sizes[:, 0] * sizes[:, 1]))
    ranks = {"smallest": 0, "median": (len(order) - 1) // 2, "largest": len(order) - 1}
    return {word: sizes[order[rank]].tolist() for word, rank in ranks.items()}
