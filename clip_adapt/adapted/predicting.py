"""Classifying image files with a delta, or with class names alone: what ``predict`` does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from clip_adapt.config.values import Between
from clip_adapt.errors import InputError

if TYPE_CHECKING:
    from clip_adapt.adapted.classifier import Classifier, Ranking

SUFFIX = ".safetensors"  # of a delta's file
TEMPLATE, MODEL = "a photo of a {}.", "lite"  # of zero-shot classification


@dataclass(frozen=True)
class Prediction:
    """What is said of one image.

    Attributes:
        path: its file.
        ranking: classes with their probabilities, the most probable first.
        chosen: its conformal set; None when the delta holds no thresholds.
        promise: share of images whose set is to hold the true class; None without sets.
    """

    path: str
    ranking: Ranking
    chosen: Ranking | None = None
    promise: float | None = None


def predict_files(
    words: Sequence[str],
    *,
    top_k: Annotated[int, Between(1)] = 5,
    score: Literal["lac", "aps"] = "lac",
    classes: list[str] | None = None,
    template: str | None = None,
    templates: list[str] | None = None,
    model: str | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    method_file: str | None = None,
) -> Iterator[Prediction]:
    """Yield what is predicted for one image after the other.

    ``words`` are the delta and the images, only images when ``classes`` are given; the options are
    described in configs/predict.yaml.

    Raises:
        InputError: when the delta or an image cannot be used; all unreadable images are listed.
    """
    if template is not None and templates is not None:
        raise InputError("template and templates are both given: keep one of them")
    # Imported here: a typo on the command line is refused before torch is there.
    from clip_adapt.adapted.loading import load_classifier, make_zero_shot
    from clip_adapt.data import decoding

    adapter, paths = _split_words(words, classes)
    if not paths:
        raise InputError(
            "expected images: predict ADAPTER photo.jpg ..., or predict photo.jpg ... "
            'classes="[cat, dog]"'
        )
    decoding.refuse_broken(decoding.find_broken(paths), remedy="Repair or remove them.")
    prompts = templates or ([template] if template is not None else None)
    if adapter is not None:
        loaded = load_classifier(
            adapter, model=model, method_file=method_file, device=device, precision=precision
        )
        classifier = loaded if classes is None else loaded.for_classes(classes, prompts)
    else:
        assert classes is not None, "without a delta there are classes"
        classifier = make_zero_shot(
            classes, prompts or [TEMPLATE], model or MODEL, device=device, precision=precision
        )
    yield from _predict(classifier, paths, top_k, score)


def _predict(
    classifier: Classifier, paths: list[str], top_k: int, score: Literal["lac", "aps"]
) -> Iterator[Prediction]:
    sets = classifier.conformal
    for path, row in zip(paths, classifier.rows(paths), strict=True):
        ranking = classifier.ranking(row, top_k)
        if sets is None:
            yield Prediction(path, ranking)
        else:
            yield Prediction(path, ranking, classifier.set_of(row, score), 1 - sets["alpha"])


def _split_words(words: Sequence[str], classes: list[str] | None) -> tuple[str | None, list[str]]:
    # The delta, if one is given, and the images. With classes only a folder, or a delta's file,
    # is one; without, the first word is.
    named = bool(words) and (os.path.isdir(words[0]) or words[0].endswith(SUFFIX))
    if words and (classes is None or named):
        return words[0], list(words[1:])
    return None, list(words)
