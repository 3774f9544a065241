"""Which column of a DataFrame, a dict or a Hugging Face data set is what, as for a table file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clip_adapt.config.values import AUTO
from clip_adapt.data.given.labels import read_text
from clip_adapt.data.sources import _columns
from clip_adapt.data.sources._table import Row, TableFile
from clip_adapt.errors import InputError, nearest

WHERE = Path("the given table")
NUMBER = "\0number"  # of the image, in place of its column
ITSELF = {"image": "call it 'image'", "label": "labels=COLUMN"}

log = logging.getLogger(__name__)


def choose_columns(
    names: Sequence[Any],
    take: Callable[[Any], Iterable[Any]],
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the column of each kind: image, label, group, split; None where there is none.

    Args:
        names: of all columns.
        take: gives the values of a column.
        given: for each kind a column's name, values in place of a column, or None.

    Raises:
        InputError: when a column is not there, or one that is needed.
    """
    chosen = {kind: _find(names, kind, given[kind]) for kind in ("image", "label")}
    named = [kind for kind in ("split", "group") if given[kind] is not None]
    chosen |= _choose_unnamed(
        names, take, chosen, {kind: _find(names, kind, given[kind]) for kind in named}
    )
    told = [f"{kind} {column!r}" for kind, column in chosen.items() if column is not None]
    told += ["no group"] * (chosen["group"] is None and given["group"] is None)
    log.info("columns: %s", ", ".join(told))
    return chosen


def _find(names: Sequence[Any], kind: str, given: Any) -> Any:
    if isinstance(given, str):
        if given not in names:
            known = [str(name) for name in names]
            raise InputError(
                f"there is no column {given!r}{nearest(given, known)} It has: {', '.join(known)}"
            )
        return given
    if given is not None:
        return None
    texts = {str(name): name for name in names}
    usual = _columns.list_usual(TableFile(WHERE, list(texts), []), kind)
    if not usual:
        raise InputError(
            f"there is no column for the {kind}: it has {', '.join(texts)}. Say which: "
            f"{ITSELF[kind]}"
        )
    return texts[usual[0]]


def _choose_unnamed(
    names: Sequence[Any],
    take: Callable[[Any], Iterable[Any]],
    used: Mapping[str, Any],
    named: Mapping[str, Any],
) -> dict[str, Any]:
    # By the rules of a table file, which look at the values.
    known = {str(name): name for name in names if name not in (used["image"], used["label"])}
    head = TableFile(WHERE, list(known), [])
    wanted = [*_columns.list_usual(head, "split"), *_columns.list_units(list(known))]
    texts = {name: [read_text(value) or "" for value in take(known[name])] for name in wanted}
    count = max((len(column) for column in texts.values()), default=0)
    rows = [
        Row({NUMBER: str(i), **{name: column[i] for name, column in texts.items()}}, i)
        for i in range(count)
    ]
    table = TableFile(WHERE, list(texts), rows)
    found: dict[str, Any] = {"image": NUMBER, "label": None, "split": None}
    if "split" not in named and rows:
        found["split"] = _columns.choose_split(table, AUTO, found).column
    split = named.get("split", found["split"])
    group = named.get("group")
    if "group" not in named and rows:
        group = _columns.choose_group(table, AUTO, {**found, "split": found["split"]}).column
    # By their own names again, which need not be text.
    return {"group": known.get(str(group), group), "split": known.get(str(split), split)}
