"""The page of one run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from clip_adapt.evaluation.quantities import PER_CLASS
from clip_adapt.evaluation.reading import list_quantities
from clip_adapt.pages import numbers, pictures, plots, tables
from clip_adapt.pages.facts import Facts, ImagePredictions
from clip_adapt.pages.heat import draw_heat
from clip_adapt.pages.rendering import make_environment
from clip_adapt.system.text.showing import write_json

CELLS = 25  # up to so many classes the confusion matrix is a table of numbers, above it a picture
CONFUSIONS, WORST = 12, 20  # listed beside a matrix, and above a picture of one
SHOWN = 12  # mistakes, and hits
SUPPORT = 160  # thumbnails in all
A_CLASS = 6  # thumbnails of a class at most
ROWS = 100  # of a table that a method gives
LARGE, SMALL = 224, 96  # pixels of the edge of a thumbnail
EXAMPLE = """import clip_adapt

model = clip_adapt.load({adapter})
model.predict("photo.jpg", top_k=3)"""


@dataclass(frozen=True)
class Shot:
    """A test image as the page shows it."""

    path: str
    picture: str | None
    true: str
    predicted: str
    confidence: float
    of_true: float


def render(facts: Facts) -> str:
    """Return the page as HTML that needs no other file and no network.

    Raises:
        InputError: when a file of the run is damaged.
    """
    p = facts.predictions()
    confusion = tables.count_confusions(p)
    mistakes, hits = _choose(p)
    support = _group_by_class(facts.support(), p.classes)
    digests = facts.digests()
    large = pictures.make_thumbnails([p.paths[i] for i in [*mistakes, *hits]], digests, LARGE)
    small = pictures.make_thumbnails([q for _, few, _ in support for q in few], digests, SMALL)
    few_classes = len(p.classes) <= CELLS
    return (
        make_environment()
        .get_template("run.html")
        .render(
            facts=facts,
            m=facts.metrics,
            classes=p.classes,
            headline=list_headline(facts.metrics),
            of_class={quantity.name: quantity for quantity in PER_CLASS},
            rows=tables.list_classes(p, confusion),
            matrix=_make_matrix(confusion) if few_classes else None,
            heat=None if few_classes else draw_heat(confusion, p.classes),
            confused=tables.list_confusions(
                confusion, p.classes, CONFUSIONS if few_classes else WORST
            ),
            reliability=Markup(plots.draw_reliability(p.predicted == p.labels, p.confidence)),
            sparse=plots.SPARSE,
            curve=_draw_curve(facts.metrics),
            mistakes=_list_shots(p, mistakes, large),
            hits=_list_shots(p, hits, large),
            support=[(name, [(q, small.get(q)) for q in few], n) for name, few, n in support],
            learned=cut_tables(facts.metrics.get("learned") or []),
            example=EXAMPLE.format(adapter=write_json(facts.adapter)),
        )
    )


def list_headline(metrics: dict[str, Any]) -> list[numbers.MetricRow]:
    """Return the metrics of the test split with zero-shot beside them, in their order."""
    test, before = metrics["test"], metrics.get("zero_shot") or {}
    change = metrics.get("difference") or {}
    return [
        numbers.make_row(
            quantity, test[quantity.name], before.get(quantity.name), change.get(quantity.name)
        )
        for quantity in list_quantities(metrics)
    ]


def _choose(p: ImagePredictions) -> tuple[list[int], list[int]]:
    # The most confident mistakes and the least confident hits, as indices of test images.
    right = p.predicted == p.labels
    order = np.argsort(-p.confidence, kind="stable")
    return order[~right[order]][:SHOWN].tolist(), order[right[order]][::-1][:SHOWN].tolist()


def _list_shots(p: ImagePredictions, chosen: Iterable[int], pool: dict[str, str]) -> list[Shot]:
    return [
        Shot(
            p.paths[i],
            pool.get(p.paths[i]),
            p.classes[p.labels[i]],
            p.classes[p.predicted[i]],
            float(p.confidence[i]),
            float(p.probabilities[i, p.labels[i]]),
        )
        for i in chosen
    ]


def _group_by_class(
    rows: Sequence[dict[str, str]], classes: list[str]
) -> list[tuple[str, list[str], int]]:
    # (class, paths to show, how many it has in all)
    of_class: dict[str, list[str]] = {name: [] for name in classes}
    for row in rows:
        if row["split"] == "train":
            of_class.setdefault(row["label"], []).append(row["path"])
    each = max(1, min(A_CLASS, SUPPORT // len(of_class)))
    found = [(name, paths[:each], len(paths)) for name, paths in of_class.items() if paths]
    return found[:SUPPORT]


def _make_matrix(confusion: NDArray[np.int64]) -> list[list[tuple[int, float]]]:
    shares = tables.divide_by_row(confusion)
    pairs = zip(confusion.tolist(), shares.tolist(), strict=True)
    return [list(zip(counts, part, strict=True)) for counts, part in pairs]


def _draw_curve(metrics: dict[str, Any]) -> Markup | None:
    curve = metrics.get("curve")
    return Markup(plots.draw_learning_curve(curve)) if curve else None


def cut_tables(learned: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return tables that a method gives, with as many rows as a page shows."""
    return [
        {**table, "rows": table["rows"][:ROWS], "more": max(0, len(table["rows"]) - ROWS)}
        for table in learned
    ]
