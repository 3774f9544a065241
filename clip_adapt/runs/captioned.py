"""Which options fit ``objective=contrastive``, and which data sets fit which objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clip_adapt.config.cards import DataCard
from clip_adapt.data import catalog

# What an option must be when there are no classes, and why.
WITHOUT_CLASSES: dict[str, tuple[Any, str]] = {
    "class_balanced": (False, "captions have no classes to balance"),
    "label_smoothing": (0.0, "its loss has no class labels to smooth"),
    "guard": (False, "zero-shot classification has no part in it"),
    "calibrate": (False, "there are no class probabilities to calibrate"),
    "conformal": (None, "there are no sets of classes"),
    "metrics": (None, "they measure probabilities of classes"),
    "protocol": ("few_shot", "captions have no classes to hold back"),
    "prompts": ("templates", "captions have no descriptions besides themselves"),
    "iterations_per_shot": (None, "captions have no shots; give the length as epochs=10"),
}


def contradictions(checked: Mapping[str, Any], dataset: DataCard | None) -> list[str]:
    """Return a line for each option, and for the data set, that does not fit the objective."""
    contrastive = checked["objective"] == "contrastive"
    problems = _options(checked) if contrastive else []
    if not contrastive and not checked["dedup"]:
        problems.append("dedup=false is given without objective=contrastive: drop it")
    if dataset is not None and contrastive != (catalog.gives(dataset) == "captions"):
        problems.append(_no_captions(dataset) if contrastive else _no_classes(dataset))
    return problems


def _options(checked: Mapping[str, Any]) -> list[str]:
    return [
        f"{key}={checked[key]} cannot be used with objective=contrastive: {reason}"
        for key, (neutral, reason) in WITHOUT_CLASSES.items()
        if checked[key] != neutral
    ]


def _no_classes(dataset: DataCard) -> str:
    return (
        f"dataset {dataset.name} has captions and no classes, and objective=classify learns "
        "classes: add objective=contrastive"
    )


def _no_captions(dataset: DataCard) -> str:
    return (
        f"dataset {dataset.name} has classes and no captions (source: {dataset.source}), and "
        "objective=contrastive learns captions: give a table with an image and a caption column, "
        "dataset=pairs.csv, or a card with source: pairs; or drop objective"
    )
