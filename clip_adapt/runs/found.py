"""What was found in a run's data, kept with its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from clip_adapt.config.cards import SPLITS
from clip_adapt.data.dataset import Dataset
from clip_adapt.data.items import Item
from clip_adapt.data.scan import Survey
from clip_adapt.pages.found import Found


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
