"""Many files through a classifier: what ``Classifier.predict_files`` does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from clip_adapt.adapted.conformal import Score, Thresholds
from clip_adapt.adapted.frames import Every
from clip_adapt.adapted.prediction import Prediction, Ranking
from clip_adapt.adapted.view_stream import ViewOfFile, stream_views
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.errors import InputError
from clip_adapt.inputs import features


class Answering(Protocol):
    """What is asked of a classifier; ``classifier.Classifier`` describes each."""

    backbone: Backbone
    method: Any
    classes: list[str]
    conformal: Thresholds | None

    def logits(self, pixels: Tensor) -> Tensor:
        """Return the logits (N, C) of pixels."""

    def logits_of_features(self, z: Tensor) -> Tensor:
        """Return the logits (N, C) of features."""

    def softmax(self, logits: Tensor) -> Tensor:
        """Return the probabilities (N, C) of logits."""

    def ranking(self, row: Tensor, top_k: int | None = None) -> Ranking:
        """Return the most probable classes."""

    def set_of(self, row: Tensor, score: Score = "lac") -> Ranking:
        """Return the conformal set."""


def stream_predictions(
    model: Answering,
    paths: Iterable[str],
    *,
    top_k: int,
    score: Score,
    every: Every | None = None,
    filled: bool = True,
) -> Iterator[Prediction]:
    """Yield what is predicted for one file after the other, or why one cannot be read.

    Args:
        model: the classifier.
        paths: image files; with ``every`` videos as well.
        top_k: how many classes a ranking has.
        score: of conformal sets.
        every: how often videos are looked at.
        filled: whether a batch that is not full is filled up.
    """
    size = features.choose_batch_size(model.backbone.device)
    for batch in stream_views(model.backbone, paths, size, every):
        good = [view.pixels for view in batch if view.pixels is not None]
        rows = iter(_classify(model, good, size if filled else max(2, len(good))))
        for view in batch:
            row = None if view.error is not None else next(rows)
            yield _describe(model, view, row, top_k, score)


def _classify(model: Answering, pixels: list[Tensor], size: int) -> Tensor:
    # (n, C), on the CPU: what evaluate computes, to the last bit the same whatever else is in the
    # batch.
    if not pixels:
        return torch.empty(0, len(model.classes))
    if model.method.tunes_image_tower:
        filling = [torch.zeros_like(pixels[0])] * (size - len(pixels))
        logits = model.logits(torch.stack(pixels + filling))[: len(pixels)]
    else:
        z = features.encode_batch(model.backbone, pixels, size)
        # Kernels choose by the shape how they sum, those behind the tower as well.
        filled = z[torch.arange(size).clamp(max=len(z) - 1)]
        logits = model.logits_of_features(filled)[: len(z)]
    return require_finite(model.softmax(logits.cpu()), model.backbone)


def require_finite(rows: Tensor, backbone: Backbone) -> Tensor:
    """Return probabilities (N, C).

    Raises:
        InputError: when one is not a number.
    """
    if not bool(torch.isfinite(rows).all()):
        raise InputError(
            f"probabilities with the backbone {backbone.card.name} are not numbers: "
            "its weights are damaged, or too large for this precision (use precision=fp32)"
        )
    return rows


def _describe(
    model: Answering, view: ViewOfFile, row: Tensor | None, top_k: int, score: Score
) -> Prediction:
    if row is None:
        return Prediction(view.path, [], time=view.time, error=view.error)
    sets = model.conformal
    return Prediction(
        view.path,
        model.ranking(row, top_k),
        None if sets is None else model.set_of(row, score),
        None if sets is None else 1 - sets["alpha"],
        tuple(row.tolist()),
        view.time,
    )
