"""Classifiers from a delta, or from class names alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clip_adapt.adapted import delta
from clip_adapt.adapted.classifier import Classifier
from clip_adapt.adapted.notebook.arguments import read_names
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.data.task import Task, require_usable
from clip_adapt.method.class_prompts import require_different_prompts
from clip_adapt.method.contract import Method


def load_classifier(
    path: str | Path,
    *,
    backbone: Backbone | None = None,
    model: str | None = None,
    method_file: str | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Classifier:
    """Load a delta as a classifier; ``clip_adapt.load`` describes the arguments.

    Raises:
        InputError: when the delta is damaged, newer, or for another backbone.
    """
    made, header = delta.load(
        path,
        backbone=backbone,
        model=model,
        method_file=method_file,
        device=device,
        precision=precision,
    )
    return Classifier(made, header)


def make_zero_shot(
    classes: Sequence[str],
    templates: Sequence[str],
    model: str | Backbone,
    *,
    device: str = "auto",
    precision: str = "auto",
) -> Classifier:
    """Return a classifier from class names; ``clip_adapt.zero_shot`` describes the arguments.

    Raises:
        InputError: when the classes or a template cannot be used.
    """
    names = read_names(classes)
    require_usable(names, tuple(templates))
    backbone = (
        Backbone.load(model, device=device, precision=precision)
        if isinstance(model, str)
        else model
    )
    task = Task(tuple(names), tuple(templates))
    require_different_prompts(backbone, task)
    return Classifier(Method(backbone, task))
