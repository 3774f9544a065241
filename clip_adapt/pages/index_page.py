"""The page over many runs: a table that sorts by any of its columns."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clip_adapt.errors import InputError
from clip_adapt.evaluation.quantities import Quantity
from clip_adapt.evaluation.reading import list_quantities
from clip_adapt.pages import facts, numbers
from clip_adapt.pages.facts import Facts
from clip_adapt.pages.rendering import make_environment, write_data_uri

PAGE = "report.html"
CURVE = "curve.svg"


@dataclass(frozen=True)
class Column:
    """A column of the table: its values are words, or numbers with a way to write them."""

    title: str
    value: Callable[[Facts], Any]
    write: Callable[[Any], str] | None = None

    @property
    def number(self) -> bool:
        """Whether it is sorted as numbers."""
        return self.write is not None

    def cell(self, run: Facts) -> tuple[str, str]:
        """Return what is shown, and what it is sorted by ("" comes last)."""
        value = self.value(run)
        if value is None:
            return numbers.DASH, ""
        return (self.write(value), f"{value:.6g}") if self.write else (str(value), str(value))


def render(folder: Path, chosen: Sequence[Path] | None = None) -> str:
    """Return the index over runs in and below a folder.

    Args:
        folder: where the index lies.
        chosen: the folders of the runs; None takes all finished ones.

    Raises:
        InputError: when there is none.
    """
    folders = facts.find_finished(folder) if chosen is None else chosen
    if not folders:
        raise InputError(
            f"{folder} holds no finished run, which is a folder with a metrics.json and a "
            "config.yaml. Make one: python -m clip_adapt.train"
        )
    runs, damaged = _read_runs(folders)
    columns = _make_columns(runs)
    return (
        make_environment()
        .get_template("index.html")
        .render(
            title=f"Runs in {folder.resolve().name}",
            columns=columns,
            rows=[(_find_page(run, folder), [c.cell(run) for c in columns]) for run in runs],
            damaged=damaged,
            curve=_read_curve(folder),
        )
    )


def _read_runs(folders: Iterable[Path]) -> tuple[list[Facts], list[str]]:
    runs, damaged = [], []
    for path in folders:
        try:
            run = facts.read(path)
            measured = [run.metrics["test"][q.name]["value"] for q in list_quantities(run.metrics)]
            _ = (measured[0], run.model, [column.cell(run) for column in _make_columns([run])])
        except (InputError, LookupError, TypeError, ValueError, AttributeError) as error:
            damaged.append(f"{path}: {error}")
        else:
            runs.append(run)
    return runs, damaged


def _make_columns(runs: list[Facts]) -> list[Column]:
    every = [q for run in runs for q in list_quantities(run.metrics)]
    headline = list({q.name: q for q in every if q.headline}.values())
    return [
        Column("method", lambda run: run.title),
        Column("data set", lambda run: run.dataset),
        Column("model", lambda run: run.model),
        Column("shots", lambda run: run.config.get("shots"), str),
        Column("seed", lambda run: run.config.get("seed"), str),
        *(_make_column("test", q, q.spoken) for q in headline),
        *(_make_column("zero_shot", q, f"zero-shot {q.spoken}") for q in headline[:1]),
        Column(
            "trainable parameters",
            lambda run: _find(run.metrics, "trainable_parameters"),
            "{:,}".format,
        ),
        Column("time", lambda run: _find(run.metrics, "seconds", "total"), numbers.write_duration),
    ]


def _make_column(split: str, quantity: Quantity, title: str) -> Column:
    def value(run: Facts) -> float | None:
        return _find(run.metrics, split, quantity.name, "value")

    return Column(title, value, quantity.write_value)


def _find(metrics: Mapping[str, Any], *names: str) -> float | None:
    # A number inside of what somebody else may have written; None where it is not.
    value: Any = metrics
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _find_page(run: Facts, top: Path) -> str | None:
    page = run.folder / PAGE
    return quote(os.path.relpath(page, top).replace(os.sep, "/")) if page.is_file() else None


def _read_curve(folder: Path) -> str | None:
    path = folder / CURVE
    facts.require_own(path)
    return write_data_uri(path.read_bytes(), "svg+xml") if path.is_file() else None
