"""The page over many runs: what is best, and every run."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from clip_adapt.errors import InputError
from clip_adapt.evaluation.quantities import Quantity
from clip_adapt.evaluation.reading import list_quantities
from clip_adapt.pages import facts, index_curve, numbers
from clip_adapt.pages.facts import Facts
from clip_adapt.pages.rendering import make_environment
from clip_adapt.pages.settings import Setting, list_settings, sort_settings
from clip_adapt.system.run_files import CURVE, PAGE, RESULTS, SUMMARY

FILES = (RESULTS, SUMMARY, f"{CURVE}.svg", f"{CURVE}.png")  # of a sweep


@dataclass(frozen=True)
class IndexCell:
    """What is shown, what it is sorted by ("" comes last), and what stands below it in small."""

    text: str
    key: str
    below: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table; ``number`` says how it is sorted."""

    title: str
    make: Callable[[Any], IndexCell]
    number: bool = False


def render(folder: Path, chosen: Sequence[Path] | None = None, metric: str | None = None) -> str:
    """Return the index over runs in and below a folder.

    Args:
        folder: where the index lies.
        chosen: the folders of the runs; None takes all finished ones.
        metric: what is sorted by and drawn; None is the first headline metric.

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
    headline = _list_headline(runs, metric)
    settings = sort_settings(list_settings(runs), headline[0]) if headline else []
    runs = [run for setting in settings for run in setting.runs]
    common = _list_common(runs)
    of_settings = _leave_out(_list_setting_columns(headline), common)
    of_runs = _leave_out(_list_run_columns(headline), common)
    return (
        make_environment()
        .get_template("index.html")
        .render(
            title=f"Runs in {folder.resolve().name}",
            common=[f"{title} {value}" for title, value in common.items()],
            sorted_by=headline[0].spoken if headline else "",
            setting_columns=of_settings,
            settings=[[c.make(setting) for c in of_settings] for setting in settings],
            several=len(settings) < len(runs),
            columns=of_runs,
            rows=[(_find_page(run, folder), [c.make(run) for c in of_runs]) for run in runs],
            damaged=damaged,
            files=_list_files(folder),
            curve=Markup(drawn) if (drawn := index_curve.draw(settings, headline)) else None,
        )
    )


def _read_runs(folders: Iterable[Path]) -> tuple[list[Facts], list[str]]:
    runs, damaged = [], []
    for path in folders:
        try:
            run = facts.read(path)
            headline = _list_headline([run], None)
            measured = [run.metrics["test"][q.name]["value"] for q in list_quantities(run.metrics)]
            _ = (measured[0], run.model, [c.make(run) for c in _list_run_columns(headline)])
            _ = [setting.estimate(q) for setting in list_settings([run]) for q in headline]
        except (InputError, LookupError, TypeError, ValueError, AttributeError) as error:
            damaged.append(f"{path}: {error}")
        else:
            runs.append(run)
    return runs, damaged


def _list_headline(runs: Iterable[Facts], metric: str | None) -> list[Quantity]:
    every = {q.name: q for run in runs for q in list_quantities(run.metrics)}
    headline = [q for q in every.values() if q.headline or q.name == metric]
    return sorted(headline or list(every.values())[:1], key=lambda q: q.name != metric)


def _list_common(runs: Sequence[Facts]) -> dict[str, str]:
    # What is the same for all is said once: on a phone there is no room for a column of it.
    found = {"data set": {r.dataset for r in runs}, "model": {r.model for r in runs}}
    return {title: min(values) for title, values in found.items() if len(values) == 1}


def _leave_out(columns: Sequence[Column], titles: Iterable[str]) -> list[Column]:
    return [column for column in columns if column.title not in titles]


def _list_setting_columns(headline: Sequence[Quantity]) -> list[Column]:
    return [
        Column("method", lambda setting: _make_word(setting.label)),
        Column("data set", lambda setting: _make_word(setting.runs[0].dataset)),
        Column("model", lambda setting: _make_word(setting.runs[0].model)),
        Column("shots", lambda s: _make_number(_find(s.runs[0].config, "shots"), str), True),
        Column("runs", lambda setting: _make_number(len(setting.runs), str), True),
        *(_make_setting_column(quantity) for quantity in headline),
        *(_make_zero_shot_column(q, lambda setting: setting.runs[0]) for q in headline[:1]),
    ]


def _list_run_columns(headline: Sequence[Quantity]) -> list[Column]:
    return [
        Column("method", lambda run: _make_word(run.title)),
        Column("data set", lambda run: _make_word(run.dataset)),
        Column("model", lambda run: _make_word(run.model)),
        Column("shots", lambda run: _make_number(_find(run.config, "shots"), str), True),
        Column("seed", lambda run: _make_number(_find(run.config, "seed"), str), True),
        *(_make_run_column(quantity) for quantity in headline),
        *(_make_zero_shot_column(quantity, lambda run: run) for quantity in headline[:1]),
        _make_count_column("training images", "n_support"),
        _make_count_column("test images", "n_test"),
        _make_count_column("trainable parameters", "trainable_parameters"),
        Column(
            "time",
            lambda run: _make_number(
                _find(run.metrics, "seconds", "total"), numbers.write_duration
            ),
            True,
        ),
        Column("date", lambda run: _make_word(run.date)),
    ]


def _make_word(text: str) -> IndexCell:
    return IndexCell(text or numbers.DASH, text)


def _make_number(value: float | None, write: Callable[[Any], str], below: str = "") -> IndexCell:
    return (
        IndexCell(numbers.DASH, "")
        if value is None
        else IndexCell(write(value), f"{value:.6g}", below)
    )


def _make_count_column(title: str, name: str) -> Column:
    return Column(title, lambda run: _make_number(_find(run.metrics, name), "{:,}".format), True)


def _make_setting_column(quantity: Quantity) -> Column:
    def make(setting: Setting) -> IndexCell:
        found = setting.estimate(quantity)
        return _make_number(found["value"], quantity.write_value, quantity.write_range(found))

    return Column(quantity.spoken, make, True)


def _make_run_column(quantity: Quantity) -> Column:
    def make(run: Facts) -> IndexCell:
        value, low, high = (
            _find(run.metrics, "test", quantity.name, part) for part in ("value", "low", "high")
        )
        return _make_number(
            value, quantity.write_value, quantity.write_range({"low": low, "high": high})
        )

    return Column(quantity.spoken, make, True)


def _make_zero_shot_column(quantity: Quantity, find_run: Callable[[Any], Facts]) -> Column:
    def make(row: Any) -> IndexCell:
        value = _find(find_run(row).metrics, "zero_shot", quantity.name, "value")
        return _make_number(value, quantity.write_value)

    return Column(f"zero-shot {quantity.spoken}", make, True)


def _find(metrics: Mapping[str, Any], *names: str) -> float | None:
    # A number inside of what somebody else may have written; None where it is not.
    value: Any = metrics
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _find_page(run: Facts, top: Path) -> str | None:
    page = run.folder / PAGE
    return quote(os.path.relpath(page, top).replace(os.sep, "/")) if page.is_file() else None


def _list_files(folder: Path) -> list[str]:
    found = [name for name in FILES if (folder / name).is_file()]
    for name in found:
        facts.require_own(folder / name)
    return found
