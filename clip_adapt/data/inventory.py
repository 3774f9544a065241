"""What a source saw of a user's data besides the images it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from clip_adapt.data.formats.kinds import explain_suffix


@dataclass(frozen=True)
class Inventory:
    """What was used and what was passed over.

    Attributes:
        columns: which column of a table is what (image, label, split, group); None where the table
            has none; empty when the data set is no table.
        ignored: how many files were passed over, by suffix or file name (``Thumbs.db``, ``.heic``).
        notes: what else a user should know of how the data set was read.
    """

    columns: Mapping[str, str | None] = field(default_factory=dict)
    ignored: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def list_counts(counts: Mapping[str, int], most: int = 6) -> str:
    """Return counts in words, the largest first: ``6 Thumbs.db, 1 .xcf``.

    Images that an extra would read come before all others, and it is said which.
    """
    ranked = sorted(counts.items(), key=lambda pair: (not _explain(pair[0]), -pair[1], pair[0]))
    words = [f"{count} {what}{_explain(what)}" for what, count in ranked[:most]]
    rest = sum(count for _, count in ranked[most:])
    return ", ".join([*words, *([f"{rest} others"] if rest else [])])


def _explain(what: str) -> str:
    reads = explain_suffix(what)
    return f" ({reads})" if reads else ""
