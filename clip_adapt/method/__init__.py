"""Method, the contract of every way to adapt CLIP, and what methods are built with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_adapt.system.lazy import export_lazily

if TYPE_CHECKING:
    from clip_adapt.method.contract import Method
    from clip_adapt.method.finding import Found, find_method, list_methods
    from clip_adapt.method.table import Table

__all__ = ["Found", "Method", "Table", "find_method", "list_methods"]

__getattr__ = export_lazily(
    __name__,
    {
        "Found": "finding",
        "Method": "contract",
        "Table": "table",
        "find_method": "finding",
        "list_methods": "finding",
    },
)
