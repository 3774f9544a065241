"""The public functions: adapt, load, zero_shot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip_adapt.adapted.classifier import Classifier
from clip_adapt.adapted.loading import load_classifier, make_zero_shot
from clip_adapt.backbone.backbone import Backbone


def adapt(
    images: str | Path, *, method: str = "coop", shots: int = 16, **options: Any
) -> Classifier:
    """Adapt CLIP to images: the whole run of ``python -m clip_adapt.train``.

    Args:
        images: a folder of class folders, a card.yaml, or the name of a data set.
        method: a name, or the path of a method.py.
        shots: labelled images a class.
        **options: any option of configs/train.yaml; nested ones as ``**{"method.n_ctx": 4}``.

    Returns:
        the classifier; ``.folder`` holds the run's files, ``.metrics`` the test metrics.

    Raises:
        InputError: with one line for each thing that does not fit.
    """
    from clip_adapt.data.catalog import name_dataset
    from clip_adapt.runs.configuration import compose
    from clip_adapt.runs.run import run

    return run(
        compose({"dataset": name_dataset(images), "method": method, "shots": shots, **options})
    )


def load(
    path: str | Path,
    *,
    backbone: Backbone | None = None,
    model: str | None = None,
    method_file: str | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Classifier:
    """Load a delta as a classifier.

    Args:
        path: the folder ``adapter/``, its file, or a hub id.
        backbone: share one that is loaded already; several deltas do not disturb one another.
        model: where the delta's backbone is when its card does not ship: a card.yaml, a folder, an
            architecture, or ``hf-hub:owner/name``. Nothing is fetched because a delta names it.
        method_file: the .py that made the delta, when it was a method of one's own.
        device: where to load a backbone to.
        precision: what to load a backbone in.

    Raises:
        InputError: when the delta is damaged, newer, or for another backbone.
    """
    return load_classifier(
        path,
        backbone=backbone,
        model=model,
        method_file=method_file,
        device=device,
        precision=precision,
    )


def zero_shot(
    classes: Sequence[str],
    *,
    template: str | Sequence[str] = "a photo of a {}.",
    model: str | Backbone = "lite",
    device: str = "auto",
    precision: str = "auto",
) -> Classifier:
    """Return a classifier from class names alone.

    Args:
        classes: at least two different names.
        template: one prompt with ``{}`` for the name, or several whose embeddings are averaged.
        model: a short name, an architecture, or a backbone that is loaded already.
        device: where to load the backbone to.
        precision: what to load it in.

    Raises:
        InputError: when the classes or a template cannot be used.
    """
    templates = (template,) if isinstance(template, str) else tuple(template)
    return make_zero_shot(classes, templates, model, device=device, precision=precision)
