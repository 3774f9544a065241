"""What a run learns: one file an objective, found by its name.

A file of a user's own subclasses ``Objective`` and is used as ``objective=mine.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_adapt.system.lazy import export_lazily

if TYPE_CHECKING:
    from clip_adapt.objectives._contract import Data, Draw, Objective, Outcome, Run
    from clip_adapt.objectives._finding import find_objective, list_objectives

__all__ = ["Data", "Draw", "Objective", "Outcome", "Run", "find_objective", "list_objectives"]

__getattr__ = export_lazily(
    __name__,
    {
        "Data": "_contract",
        "Draw": "_contract",
        "Objective": "_contract",
        "Outcome": "_contract",
        "Run": "_contract",
        "find_objective": "_finding",
        "list_objectives": "_finding",
    },
)
