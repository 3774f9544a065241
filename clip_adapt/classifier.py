"""An adapted CLIP as other people's code uses it: images in, classes with probabilities out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from clip_adapt import features, images, views
from clip_adapt.backbone import Backbone
from clip_adapt.delta import Header
from clip_adapt.errors import InputError
from clip_adapt.images import AnyImage
from clip_adapt.method import Method

Ranking = list[tuple[str, float]]


class Classifier:
    """A method on its backbone, ready to classify.

    Attributes:
        method: the adapted part.
        backbone: the frozen towers.
        classes: spoken class names, in the order of the columns of ``probabilities``.
        temperature: what logits are divided by before the softmax.
        header: what the delta says of itself; None for zero-shot.
        folder: where the run that made it wrote its files; None when it was loaded.
        metrics: of that run; None when there was none.
    """

    def __init__(self, method: Method, header: Header | None = None) -> None:
        self.method = method.eval()
        self.backbone: Backbone = method.backbone
        self.classes: list[str] = list(method.task.classes)
        self.temperature = header.temperature if header else 1.0
        self.header = header
        self.folder: Path | None = None
        self.metrics: dict[str, Any] | None = header.metrics if header else None

    @overload
    def predict(self, images: list[AnyImage], top_k: int = 5) -> list[Ranking]: ...
    @overload
    def predict(self, images: AnyImage, top_k: int = 5) -> Ranking: ...

    def predict(self, images: Any, top_k: int = 5) -> Any:
        """Classify an image, or several.

        Args:
            images: a path, a PIL image or an array (H, W, 3) of uint8; or a list of these.
            top_k: how many classes to return, the most probable first.

        Returns:
            [(class, probability), ...] for one image; a list of these for a list.

        Raises:
            InputError: when an image cannot be read, or ``top_k`` is below 1.
        """
        if top_k < 1:
            raise InputError(f"top_k={top_k}: expected a whole number, at least 1")
        if isinstance(images, list | tuple):
            return list(self.stream(images, top_k))
        return next(iter(self.stream([images], top_k)))

    def stream(self, images_: Sequence[AnyImage], top_k: int = 5) -> Iterator[Ranking]:
        """Yield the ranking of one image after the other; memory does not grow with their number.

        Raises:
            InputError: when an image cannot be read.
        """
        size = features.batch_size(self.backbone.device)
        for start in range(0, len(images_), size):
            part = images_[start : start + size]
            pixels = torch.stack([views.centre(self.backbone, images.load(i)) for i in part])
            for row in self.probabilities(pixels):
                yield self._ranking(row, top_k)

    def probabilities(self, pixels: Tensor) -> Tensor:
        """Return the probabilities (N, C), rows summing to 1, of pixels (N, 3, S, S).

        ``pixels`` are images that went through ``backbone.preprocess``.
        """
        with torch.no_grad():
            return self._softmax(self.method(self.method.encode_image(pixels)))

    def probabilities_of_features(self, z: Tensor) -> Tensor:
        """Return the probabilities (N, C) of unit image features (N, D)."""
        with torch.no_grad():
            return self._softmax(self.method(z.to(self.backbone.device)))

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return the unit features (N, D) of pixels (N, 3, S, S)."""
        with torch.no_grad():
            return self.method.encode_image(pixels)

    def encode_text(self, texts: list[str]) -> Tensor:
        """Return the unit features (C, D) of texts."""
        with torch.no_grad():
            return self.backbone.encode_text(texts)

    def _softmax(self, logits: Tensor) -> Tensor:
        return (logits.float() / self.temperature).softmax(dim=1)

    def _ranking(self, row: Tensor, top_k: int) -> Ranking:
        best = row.topk(min(top_k, len(self.classes)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(self.classes[i], p) for i, p in pairs]
