"""The page of a run on captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from clip_adapt.errors import InputError
from clip_adapt.pages import pictures, plots, retrieval_table
from clip_adapt.pages.facts import Facts
from clip_adapt.pages.rendering import make_environment
from clip_adapt.pages.retrieval_table import Answer
from clip_adapt.pages.run_page import cut_tables, list_headline
from clip_adapt.system.run_files import RETRIEVAL
from clip_adapt.system.text.showing import write_json

SHOWN = 12  # misses, hits, and pairs of near-duplicates
CAPTIONS = 6  # of an image at most
TRAINING = 48  # training images at most
WAYS = ("image_to_text_recall@1", "text_to_image_recall@1")
EXAMPLE = """import clip_adapt

model = clip_adapt.load({adapter})
for pixels in model.batches(["photo.jpg"]):
    print(model.encode_image(pixels) @ model.encode_text(["a dog", "two dogs"]).T)

pets = model.for_classes(["cat", "dog"], template="a photo of a {{}}.")
pets.predict("photo.jpg")"""
CURVES = {"accuracy": "in the batch", "val_recall@1": "val"}

Pair = tuple[str, list[str]]  # an image and its captions


def render(facts: Facts) -> str:
    """Return the page as HTML that needs no other file and no network.

    Raises:
        InputError: when a file of the run is damaged.
    """
    answers = _read_answers(facts)
    misses = retrieval_table.choose_misses(answers, SHOWN)
    hits = retrieval_table.choose_hits(answers, SHOWN)
    training, step = _choose_training(facts)
    twins = sorted(facts.near_duplicates(), key=lambda twin: twin.distance)
    paths = [answer.path for answer in [*misses, *hits]] + [path for path, _ in training]
    paths += [path for twin in twins[:SHOWN] for path in (twin.path, twin.twin)]
    return (
        make_environment()
        .get_template("retrieval.html")
        .render(
            facts=facts,
            m=facts.metrics,
            **_summarise(facts.metrics, answers),
            misses=misses,
            hits=hits,
            training=training,
            step=step,
            twins=twins[:SHOWN],
            n_twins=len(twins),
            pool=pictures.make_thumbnails(paths, facts.digests()),
            limit=CAPTIONS,
            example=EXAMPLE.format(adapter=write_json(facts.adapter)),
            curve=_draw_curve(facts.metrics),
            learned=cut_tables(facts.metrics.get("learned") or []),
        )
    )


def _read_answers(facts: Facts) -> list[Answer]:
    path = facts.folder / RETRIEVAL
    answers = retrieval_table.read_answers(path, facts.command)
    if len(answers) != facts.metrics["n_test"]:
        raise InputError(
            f"{path} holds {len(answers)} images, and {facts.metrics['n_test']} were measured. "
            f"Run again: {facts.command}"
        )
    return answers


def _summarise(metrics: dict[str, Any], answers: Sequence[Answer]) -> dict[str, Any]:
    cuts = sorted({int(name.rpartition("@")[2]) for name in metrics["test"]})
    firsts = list_headline({**metrics, "test": {way: metrics["test"][way] for way in WAYS}})
    return {
        "headline": list_headline(metrics),
        "heroes": list(zip(firsts, retrieval_table.estimate_chance(answers), strict=True)),
        "ranks": retrieval_table.count_ranks(answers, cuts),
        "medians": retrieval_table.find_medians(answers),
    }


def _choose_training(facts: Facts) -> tuple[list[Pair], int]:
    # Every so many, so that a table which is sorted by what it shows is seen as a whole.
    pairs = [(r["path"], r["captions"]) for r in facts.support() if r["split"] == "train"]
    step = max(1, -(-len(pairs) // TRAINING))
    return pairs[::step], step


def _draw_curve(metrics: dict[str, Any]) -> Markup | None:
    curve = metrics.get("curve")
    return Markup(plots.draw_learning_curve(curve, CURVES, "share in %")) if curve else None
