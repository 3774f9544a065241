"""The page of a run whose objective has none of its own: its numbers and how they came about."""

from __future__ import annotations

from markupsafe import Markup

from clip_adapt.pages import plots
from clip_adapt.pages.facts import Facts
from clip_adapt.pages.rendering import make_environment
from clip_adapt.pages.run_page import cut_tables, list_headline


def render(facts: Facts) -> str:
    """Return the page as HTML that needs no other file and no network."""
    curve = facts.metrics.get("curve")
    return (
        make_environment()
        .get_template("plain.html")
        .render(
            facts=facts,
            m=facts.metrics,
            headline=list_headline(facts.metrics),
            curve=Markup(plots.draw_learning_curve(curve)) if curve else None,
            learned=cut_tables(facts.metrics.get("learned") or []),
        )
    )
