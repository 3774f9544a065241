"""What stands in a metrics.json, as quantities: for whatever shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from clip_adapt.data.seen import ROLES
from clip_adapt.evaluation.finding import list_shipped
from clip_adapt.evaluation.quantities import RECALLS, Quantity

# Why an image was not measured on, besides the roles of one that was seen.
GROUP, UNREADABLE = "group", "unreadable"
OTHER_REASONS = {
    GROUP: "of a group (patient, site) with one of these",
    UNREADABLE: "not readable",
}


def list_quantities(facts: Mapping[str, Any]) -> list[Quantity]:
    """Return what a metrics.json measures on test images, in its order."""
    return [find_quantity(name, facts) for name in facts["test"]]


def find_quantity(name: str, facts: Mapping[str, Any]) -> Quantity:
    """Return the quantity of that name.

    Args:
        name: as in metrics.json.
        facts: the metrics.json, which describes the metrics that do not ship.
    """
    described = facts.get("metrics") or {}
    if name in described:
        return Quantity.from_description(name, described[name])
    known: dict[str, Quantity] = {q.name: q for q in (*list_shipped(), *RECALLS)}
    # A name that nothing describes, of another version, is written plainly.
    return known.get(name) or Quantity(name=name, spoken=name.replace("_", " "), better=None)


def describe_others(measured: Iterable[Quantity]) -> dict[str, dict[str, Any]]:
    """Return what a metrics.json says of quantities that do not ship, by name."""
    known = {q.name for q in (*list_shipped(), *RECALLS)}
    return {q.name: q.describe() for q in measured if q.name not in known}


def describe_images(images: Mapping[str, Any]) -> str:
    """Return what is said of which images were measured on, from what metrics.json says of it."""
    reasons = describe_left_out(images["left_out"])
    text = f"measured on {images['measured']} of {images['found']} images"
    return f"{text}: {reasons}" if reasons else text


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """Return in words why how many images were not measured on: ``3 were trained on``."""
    return ", ".join(_describe_reason(*pair) for pair in left_out.items())


def _describe_reason(reason: str, count: int) -> str:
    spoken = {**ROLES, **OTHER_REASONS}.get(reason, reason)
    return f"{count} {'was' if count == 1 else 'were'} {spoken}"


def write_rows(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return a row for every metric: its spoken name, zero-shot, and what was adapted."""
    return [
        (
            q.spoken,
            q.write_estimate(facts["zero_shot"][q.name]),
            q.write_estimate(facts["test"][q.name]),
        )
        for q in list_quantities(facts)
    ]


def explain_setback(facts: Mapping[str, Any], name: str, remedies: Iterable[str]) -> str | None:
    """Return one line when a run ends below zero-shot; None when it does not.

    Args:
        facts: what metrics.json says of the test images.
        name: of the metric that decides.
        remedies: what to try.
    """
    pair = [facts[kind].get(name) for kind in ("test", "zero_shot")]
    values = [None if estimate is None else estimate["value"] for estimate in pair]
    quantity = find_quantity(name, facts)
    if quantity.is_better(*values) is not False:
        return None
    ours, before = map(quantity.write_value, values)
    return (
        f"this ends below zero-shot: {quantity.spoken} {ours}, zero-shot {before}. "
        f"Try {', or '.join(remedies)}"
    )
