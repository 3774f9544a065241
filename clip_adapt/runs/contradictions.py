"""General options that are right one by one and contradict each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clip_adapt.config import cards


def find_contradictions(checked: Mapping[str, Any]) -> list[str]:
    """Return a line for every pair of general options that cannot stand together."""
    problems = []
    if checked["template"] is not None and checked["templates"] is not None:
        problems.append("template and templates are both given: keep one of them")
    given = {"templates": [*(checked["templates"] or []), *filter(None, [checked["template"]])]}
    problems += [
        f"template {t!r} has no {{}} for the class name"
        for t in cards.find_slotless_templates(given)
    ]
    if checked["conformal_images"] is not None and checked["conformal"] is None:
        problems.append(
            "conformal_images is given without conformal: add conformal=0.1, or drop it"
        )
    crosses = checked["protocol"] == "cross_dataset"
    if crosses and not checked["test_on"]:
        problems.append("protocol=cross_dataset needs test_on=DATASET, or test_on=[ONE, OTHER]")
    if checked["test_on"] and not crosses:
        problems.append("test_on is given without protocol=cross_dataset: add it, or drop test_on")
    if isinstance(checked["epochs"], dict) and not checked["epochs"]:
        problems.append("epochs={}: expected at least one entry of shots: epochs")
    return problems
