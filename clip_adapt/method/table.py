"""A small table of text that goes into metrics.json and onto the report's page."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """A titled table.

    Attributes:
        title: what it shows.
        note: how to read it, and what it does not say.
        columns: the heads.
        rows: the cells, as text, as many in a row as there are heads.
    """

    title: str
    note: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
