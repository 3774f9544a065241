"""An adapted CLIP as other people's code uses it: images in, classes with probabilities out.

This file is long because it holds the one object that people use, and says how with each method;
what is done is done elsewhere.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from clip_adapt.adapted import bulk, conformal, guard
from clip_adapt.adapted.conformal import Score, Thresholds
from clip_adapt.adapted.frames import parse_every
from clip_adapt.adapted.header import Header
from clip_adapt.adapted.image_words import find_images
from clip_adapt.adapted.notebook.arguments import (
    read_count,
    read_names,
    read_texts,
    require_pixels,
    split_images,
)
from clip_adapt.adapted.notebook.showing import describe_line, write_table
from clip_adapt.adapted.prediction import Prediction, Ranking
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.data import decoding
from clip_adapt.data.decoding import AnyImage
from clip_adapt.data.task import Task, require_usable
from clip_adapt.errors import InputError
from clip_adapt.inputs import features, views
from clip_adapt.method.class_prompts import require_different_prompts
from clip_adapt.method.contract import Method


class Classifier:
    """A method on its backbone, ready to classify.

    Attributes:
        method: the adapted part.
        backbone: the frozen towers.
        classes: spoken class names, in the order of the columns of ``probabilities``; none when it
            was trained on captions (``for_classes`` gives some).
        temperature: what logits are divided by before the softmax.
        guard: weight of zero-shot's logits in the mixture with the method's, 0 to 1.
        conformal: thresholds of the sets that ``predict_sets`` gives; None without them.
        header: what the delta says of itself; None for zero-shot.
        folder: where the run that made it wrote its files; None when it was loaded.
        metrics: of that run; None when there was none.
    """

    def __init__(
        self,
        method: Method,
        header: Header | None = None,
        *,
        temperature: float = 1.0,
        guard: float = 0.0,
        conformal: Thresholds | None = None,
    ) -> None:
        self.method = method.eval()
        self.backbone: Backbone = method.backbone
        self.classes: list[str] = list(method.task.classes)
        self.temperature = header.temperature if header else temperature
        self.guard = header.guard if header else guard
        self.conformal = header.conformal if header else conformal
        self.header = header
        self.folder: Path | None = None
        self.metrics: dict[str, Any] | None = header.metrics if header else None

    def __repr__(self) -> str:
        return describe_line(self)

    def _repr_html_(self) -> str:
        return write_table(self)

    def adjust(self, **facts: Any) -> Classifier:
        """Return a classifier of the same method with other facts (``temperature=2.0``)."""
        unknown_names = sorted(facts.keys() - vars(self).keys())
        assert not unknown_names, f"a classifier has no {', '.join(unknown_names)}"
        other = copy.copy(self)
        vars(other).update(facts)
        return other

    def for_classes(
        self, classes: Sequence[str], template: str | Sequence[str] | None = None
    ) -> Classifier:
        """Return a classifier of other classes with the same trained part.

        Args:
            classes: at least two different names, in an order; numbers are names as written.
            template: one prompt with ``{}`` for the name, or several; None takes this one's own.

        Raises:
            InputError: when the classes or a template cannot be used, or when what was trained
                belongs to the classes that it was trained on.
        """
        task = self.method.task
        given = task.templates if template is None else read_texts(template, "template")
        names, templates = read_names(classes), tuple(given)
        require_usable(names, templates)
        asked = Task(tuple(names), templates, shots=task.shots, seed=task.seed)
        return self.for_task(asked)

    def for_task(self, task: Task) -> Classifier:
        """Return a classifier of another task with the same trained part, temperature and guard.

        It gives no conformal sets: their promise is for the classes that they were calibrated on.

        Raises:
            InputError: when what was trained belongs to the classes that it was trained on, or when
                two classes are the same text to the backbone.
        """
        require_different_prompts(self.backbone, task)
        moved = self.method.for_task(task)
        return Classifier(moved, temperature=self.temperature, guard=self.guard)

    @overload
    def predict(self, images: list[AnyImage], top_k: int | None = 5) -> list[Ranking]: ...
    @overload
    def predict(self, images: AnyImage, top_k: int | None = 5) -> Ranking: ...

    def predict(self, images: Any, top_k: int | None = 5) -> Any:
        """Classify an image, or several.

        Args:
            images: an image, or several. An image is a path; the bytes of a file, or a file object
                opened with "rb"; a PIL image; an array or a tensor, (H, W), (H, W, 3) or (3, H, W),
                of uint8, uint16 or floats from 0 to 1. Several are a list, a generator, a column of
                a table, or an array of four axes.
            top_k: how many classes to return, the most probable first; None gives all.

        Returns:
            [(class, probability), ...] for one image; a list of these for several.

        Raises:
            InputError: when an image cannot be read, or ``top_k`` is below 1.
        """
        several, given = split_images(images)
        found = list(self.stream(given, top_k))
        return found if several else found[0]

    def predict_proba(self, images: Any) -> np.ndarray:
        """Return the probabilities (N, C), the columns in the order of ``classes``.

        Args:
            images: as for ``predict``; one image gives (1, C).

        Raises:
            InputError: when an image cannot be read.
        """
        rows = [row.cpu() for row in self.rows(split_images(images)[1])]
        return torch.stack(rows).numpy() if rows else np.empty((0, len(self.classes)), np.float32)

    @overload
    def predict_sets(self, images: list[AnyImage], score: Score = "lac") -> list[Ranking]: ...
    @overload
    def predict_sets(self, images: AnyImage, score: Score = "lac") -> Ranking: ...

    def predict_sets(self, images: Any, score: Any = "lac") -> Any:
        """Return every class that fits, so that the true one is among them as often as promised.

        Args:
            images: as for ``predict``.
            score: ``lac`` (smallest sets on average; an empty one says that no class fits) or
                ``aps`` (larger for harder images, never empty); see conformal.py.

        Returns:
            [(class, probability), ...], the most probable first; a list of these for a list.

        Raises:
            InputError: when the delta holds no thresholds, or an image cannot be read.
        """
        several, given = split_images(images)
        found = [self.set_of(row, score) for row in self.rows(given)]
        return found if several else found[0]

    def set_of(self, row: Tensor, score: Score = "lac") -> Ranking:
        """Return the conformal set of one image from its probabilities (C,).

        Raises:
            InputError: when the delta holds no thresholds, or there is no such score.
        """
        return conformal.list_set(self.ranking(row), self.classes, self.conformal, score)

    def predict_files(
        self,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        top_k: int | None = 5,
        score: Score = "lac",
        every: str | None = None,
        on_bad_image: Literal["error", "skip"] = "error",
        filled: bool = True,
    ) -> Iterator[Prediction]:
        """Yield what is predicted for one file after the other, however many there are.

        Files are decoded in parallel, some ahead of the tower; memory does not grow with their
        number. The probabilities are those of ``evaluate``.

        Args:
            paths: image files, with ``every`` videos as well; or one word as ``predict`` takes it,
                such as a folder.
            top_k: how many classes a ranking has; None gives all.
            score: of conformal sets, as for ``predict_sets``.
            every: how often videos are looked at, ``1s`` or ``10`` (one frame in ten).
            on_bad_image: ``skip`` gives the reason as ``Prediction.error`` and goes on.
            filled: fill up a batch that is not full, as ``evaluate`` does; without it a few images
                are quicker, and equal to 1e-5.

        Raises:
            InputError: when a file cannot be read, or an option is none.
        """
        self._require_classes()
        if on_bad_image not in ("error", "skip"):
            raise InputError(f"on_bad_image={on_bad_image}: expected one of error, skip")
        count = read_count(top_k, len(self.classes))
        looks = None if every is None else parse_every(every)
        if isinstance(paths, str | os.PathLike):
            paths = find_images([os.fspath(paths)], videos=every is not None).paths
        for prediction in bulk.stream_predictions(
            self,
            (os.fspath(path) for path in paths),
            top_k=count,
            score=score,
            every=looks,
            filled=filled,
        ):
            if prediction.error is not None and on_bad_image == "error":
                raise InputError(f"{prediction.path}: {prediction.error}")
            yield prediction

    def stream(self, images_: Iterable[AnyImage], top_k: int | None = 5) -> Iterator[Ranking]:
        """Yield the ranking of one image after the other; memory does not grow with their number.

        Raises:
            InputError: when an image cannot be read, or ``top_k`` is below 1.
        """
        count = read_count(top_k, len(self.classes))
        for row in self.rows(images_):
            yield self.ranking(row, count)

    def rows(self, images_: Iterable[AnyImage]) -> Iterator[Tensor]:
        """Yield the probabilities (C,) of one image after the other.

        Raises:
            InputError: when an image cannot be read.
        """
        self._require_classes()
        for pixels in self.batches(images_):
            yield from bulk.require_finite(self.probabilities(pixels), self.backbone)

    def batches(self, images_: Iterable[AnyImage]) -> Iterator[Tensor]:
        """Yield the transformed pixels (n, 3, S, S) of images, some at a time."""
        size = features.choose_batch_size(self.backbone.device)
        given = iter(split_images(images_)[1])
        while part := list(islice(given, size)):
            yield torch.stack(
                [views.make_centre_view(self.backbone, decoding.load(i)) for i in part]
            )

    def probabilities(self, pixels: Tensor) -> Tensor:
        """Return the probabilities (N, C), rows summing to 1, of pixels (N, 3, S, S).

        ``pixels`` are images that went through ``backbone.preprocess``.
        """
        return self.softmax(self.logits(pixels))

    def probabilities_of_features(self, z: Tensor) -> Tensor:
        """Return the probabilities (N, C) of unit image features (N, D)."""
        return self.softmax(self.logits_of_features(z))

    def logits(self, pixels: Tensor) -> Tensor:
        """Return the logits (N, C) of pixels (N, 3, S, S), before the temperature.

        Raises:
            InputError: when they are images and no pixels, or there are no classes.
        """
        self._require_classes()
        require_pixels(pixels)
        with torch.no_grad():
            return self._mix_guard(self.method.encode_image(pixels), pixels)

    def logits_of_features(self, z: Tensor) -> Tensor:
        """Return the logits (N, C) of unit image features (N, D), before the temperature."""
        self._require_classes()
        with torch.no_grad():
            # One row alone goes through another kernel than two, and differs in its last digits.
            rows = z.repeat(2, 1) if len(z) == 1 else z
            return self._mix_guard(rows.to(self.backbone.device))[: len(z)]

    def softmax(self, logits: Tensor) -> Tensor:
        """Return the probabilities (N, C) of logits (N, C) at the temperature."""
        return (logits.float() / self.temperature).softmax(dim=1)

    def encode_image(self, images: Any) -> Tensor:
        """Return the unit features (N, D) of images, as the method sees them.

        Args:
            images: as for ``predict``, one image giving (1, D); or a float tensor (N, 3, S, S) of
                pixels that went through ``backbone.preprocess``.

        Raises:
            InputError: when an image cannot be read.
        """
        if isinstance(images, Tensor) and images.ndim == 4 and images.is_floating_point():
            return self._encode_pixels(images)
        found = [self._encode_pixels(pixels) for pixels in self.batches(images)]
        return torch.cat(found) if found else self._make_empty()

    def encode_text(self, texts: str | Sequence[str]) -> Tensor:
        """Return the unit features (N, D) of one text or several, as the method sees them.

        Raises:
            InputError: when they are not texts.
        """
        given = read_texts(texts, "texts")
        if not given:
            return self._make_empty()
        with torch.no_grad():
            return self.method.text_features(self.method.encode_text(given))

    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return self.method.image_features(self.method.encode_image(pixels))

    def _make_empty(self) -> Tensor:
        return torch.empty(0, self.backbone.embed_dim, device=self.backbone.device)

    def ranking(self, row: Tensor, top_k: int | None = None) -> Ranking:
        """Return the classes of one image from its probabilities (C,), the most probable first."""
        best = row.topk(min(top_k or len(row), len(row)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(self.classes[i], p) for i, p in pairs]

    def _require_classes(self) -> None:
        if not self.classes:
            raise InputError(
                "this delta was trained on captions and has no classes: give some, in Python with "
                'model.for_classes(["cat", "dog"], template="a photo of a {}."), on the command '
                'line with classes="[cat, dog]"'
            )

    def _mix_guard(self, z: Tensor, pixels: Tensor | None = None) -> Tensor:
        ours = self.method(z).float()
        if not self.guard:
            return ours
        if self.method.tunes_image_tower:
            assert pixels is not None, "zero-shot looks at the features of the frozen tower"
            z = self.backbone.encode_image(pixels)
        return guard.mix(ours, self.method.zero_shot_logits(z).float(), self.guard)
