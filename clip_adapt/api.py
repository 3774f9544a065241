"""The public functions: adapt, load, zero_shot."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Unpack

from clip_adapt.adapted.classifier import Classifier
from clip_adapt.adapted.loading import load_classifier, make_zero_shot
from clip_adapt.adapted.notebook.arguments import read_texts
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config.adapt_options import AdaptOptions
from clip_adapt.data.catalog import name_dataset
from clip_adapt.data.given.listing import write_list
from clip_adapt.errors import InputError
from clip_adapt.system.files import choose_cache_folder
from clip_adapt.system.launch.joining import is_first
from clip_adapt.system.launch.spinning import tell_of_spinning
from clip_adapt.system.launch.threads import hold_random_stream
from clip_adapt.system.text.messages import show_messages

if TYPE_CHECKING:
    from clip_adapt.runs.configuration import Config

log = logging.getLogger(__name__)


class Indexed(Protocol):
    """A data set whose images are had by their index: torch's Dataset."""

    def __getitem__(self, index: Any, /) -> Any:
        """Return an image and its label."""


def adapt(
    images: str | os.PathLike[str] | Iterable[Any] | Mapping[str, Any] | Indexed,
    labels: Iterable[Any] | str | None = None,
    *,
    groups: Iterable[Any] | str | None = None,
    splits: Iterable[Any] | str | None = None,
    classes: Sequence[str] | Mapping[Any, str] | None = None,
    method: str | os.PathLike[str] | Mapping[str, Any] = "auto",
    shots: int = 16,
    verbose: bool | None = None,
    **options: Unpack[AdaptOptions],
) -> Classifier:
    """Adapt CLIP to images: the whole run of ``python -m clip_adapt.train``.

    Args:
        images: a folder of class folders, a table, a card.yaml, or the name of a data set; or, with
            ``labels``, paths, PIL images, arrays or tensors; or what holds both: a torch Dataset or
            a list of (image, label), a DataFrame or a dict of columns, a Hugging Face data set; or
            ``{"train": ..., "test": ...}`` of any of these, or of pairs (images, labels).
        labels: one for each image: text, or whole numbers; or the name of a column.
        groups: what must stay in one split (a patient), for each image; or the name of a column.
        splits: train, val or test, for each image; or the name of a column. None splits the images
            by their content, groups kept together.
        classes: the names that numbers in ``labels`` stand for, in their order or as a dict.
        method: a name, or the path of a method.py; ``auto`` takes the quick one that does best on
            the labelled images. Or its options, ``{"name": "coop", "n_ctx": 4}``, of which the
            name is ``coop`` when it is left out.
        shots: labelled images a class.
        verbose: True says what happens, False says nothing; None says it unless your program has
            configured logging, which then decides.
        **options: any option of configs/train.yaml; nested ones as ``model={"name": "lite",
            "image_size": 64}`` or ``**{"model.image_size": 64}``.

    Returns:
        the classifier; ``.folder`` holds the run's files, ``.metrics`` the test metrics.

    Raises:
        InputError: with one line for each thing that does not fit.
    """
    from clip_adapt.runs.configuration import compose
    from clip_adapt.runs.run import run

    with hold_random_stream(), show_messages(verbose):  # logging is shared by threads as well
        tell_of_spinning()
        data = _name_data(images, labels, groups, splits, classes, options.get("cache_dir"))
        config = compose({**data, "method": method, "shots": shots, **_name_card_options(options)})
        if is_first():  # of the processes that a launcher has started
            log.info("%s", _describe_start(config))
        made = run(config)
        if is_first():
            log.info("%s", _describe_result(made, config.objective.headline))
        return made


def _name_data(
    images: Any, labels: Any, groups: Any, splits: Any, classes: Any, cache_dir: Any
) -> dict[str, str]:
    # A data set that a configuration can name.
    facts = {"labels": labels, "groups": groups, "splits": splits, "classes": classes}
    if not isinstance(images, str | os.PathLike):
        cache = choose_cache_folder(None if cache_dir is None else os.fspath(cache_dir))
        return {"dataset": str(write_list(images, **facts, cache=cache))}
    given = [name for name, value in facts.items() if value is not None]
    if given:
        raise InputError(
            f"images={os.fspath(images)} is a folder, a table or a name, which has its own "
            f"{' and '.join(given)}: leave {'these' if len(given) > 1 else 'it'} out, or give the "
            "images as a list"
        )
    return {"dataset": name_dataset(images)}


def _name_card_options(options: Mapping[str, Any]) -> dict[str, Any]:
    # dataset={"templates": [...]} becomes dataset.templates=[...]: ``images`` is the data set.
    own = options.get("dataset", {})
    if not isinstance(own, Mapping):
        raise InputError(
            f"dataset={own}: images is the data set; dataset takes options of its card, "
            'dataset={"templates": ["a photo of a {}."]}'
        )
    rest = {key: value for key, value in options.items() if key != "dataset"}
    return {**rest, **{f"dataset.{key}": value for key, value in own.items()}}


def _describe_start(config: Config) -> str:
    return f"{config.method.name} on {config.dataset.name}, backbone {config.model.name}"


def _describe_result(made: Classifier, headline: str) -> str:
    from clip_adapt.evaluation.reading import find_quantity

    metrics, header = made.metrics, made.header
    assert metrics is not None and header is not None, "a finished run has both"
    quantity = find_quantity(headline, metrics)
    values = [(metrics[kind].get(headline) or {}).get("value") for kind in ("test", "zero_shot")]
    ours, before = map(quantity.write_value, values)
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
        classes: at least two different names, in an order; numbers are names as written.
        template: one prompt with ``{}`` for the name, or several whose embeddings are averaged.
        model: a short name, an architecture, or a backbone that is loaded already.
        device: where to load the backbone to.
        precision: what to load it in.

    Raises:
        InputError: when the classes or a template cannot be used.
    """
    templates = read_texts(template, "template")
    return make_zero_shot(classes, templates, model, device=device, precision=precision)
