"""What was found in a run's data, as a person reads it: on a terminal and on a page."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from rich.cells import cell_len, set_cell_size

from clip_adapt.config.cards import SPLITS
from clip_adapt.data.inventory import list_counts
from clip_adapt.system.text.showing import show_line

MOST = 24  # classes that are shown one by one; of more the first few are
FEW = 10
WIDEST, NARROWEST = 40, 12  # columns of a terminal that names of classes take

Found = dict[str, Any]  # ``found`` of metrics.json


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
