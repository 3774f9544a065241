"""The public functions: adapt, load, zero_shot."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip_adapt.adapted.classifier import Classifier
from clip_adapt.adapted.loading import load_classifier, make_zero_shot
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.system.launch.spinning import tell_of_spinning
from clip_adapt.system.launch.threads import hold_random_stream
from clip_adapt.system.text.messages import show_messages

log = logging.getLogger(__name__)


def adapt(
    images: str | Path,
    *,
    method: str = "auto",
    shots: int = 16,
    verbose: bool | None = None,
    **options: Any,
) -> Classifier:
    """Adapt CLIP to images: the whole run of ``python -m clip_adapt.train``.

    Args:
        images: a folder of class folders, a card.yaml, or the name of a data set.
        method: a name, or the path of a method.py; ``auto`` takes the quick one that does best on
            the labelled images.
        shots: labelled images a class.
        verbose: True says what happens, False says nothing; None says it unless your program has
            configured logging, which then decides.
        **options: any option of configs/train.yaml; nested ones as ``**{"method.n_ctx": 4}``.

    Returns:
        the classifier; ``.folder`` holds the run's files, ``.metrics`` the test metrics.

    Raises:
        InputError: with one line for each thing that does not fit.
    """
    from clip_adapt.data.catalog import name_dataset
    from clip_adapt.runs.configuration import compose
    from clip_adapt.runs.run import run

    given = {"dataset": name_dataset(images), "method": method, "shots": shots, **options}
    with hold_random_stream(), show_messages(verbose):  # logging is shared by threads as well
        tell_of_spinning()
        config = compose(given)
        log.info(
            "%s on %s, backbone %s", config.method.name, config.dataset.name, config.model.name
        )
        made = run(config)
        log.info("%s", _describe_result(made, config.objective.headline))
        return made


def _describe_result(made: Classifier, headline: str) -> str:
    from clip_adapt.evaluation.reading import find_quantity

    metrics, header = made.metrics, made.header
    assert metrics is not None and header is not None, "a finished run has both"
    quantity = find_quantity(headline, metrics)
    ours, before = (
        quantity.write_value(metrics[kind][headline]["value"]) for kind in ("test", "zero_shot")
    )
    return (
        f"{header.method['name']}: {quantity.spoken} {ours} on {metrics['n_test']} test images "
        f"(zero-shot {before}), written to {made.folder}"
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
