"""Data sets: where images come from, what is drawn of them, what stands in two splits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_adapt.system.lazy import export_lazily

if TYPE_CHECKING:
    from clip_adapt.data.dataset import Dataset
    from clip_adapt.data.items import Context, Item, Splits, Support
    from clip_adapt.data.splitting import split_by_content
    from clip_adapt.data.task import Task

__all__ = ["Context", "Dataset", "Item", "Splits", "Support", "Task", "split_by_content"]

__getattr__ = export_lazily(
    __name__,
    {
        "Context": "items",
        "Dataset": "dataset",
        "Item": "items",
        "Splits": "items",
        "Support": "items",
        "Task": "task",
        "split_by_content": "splitting",
    },
)
