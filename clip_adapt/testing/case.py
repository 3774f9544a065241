"""A method with everything that a law needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.data.task import Task
from clip_adapt.method.contract import Method
from clip_adapt.training.fitting import Part, Training, solve
from clip_adapt.training.recipe import Recipe

CLASSES = ("cataract", "pterygium", "corneal scarring")


PER_CLASS = 8


@dataclass
class Case:
    """A method with everything that a law needs.

    Attributes:
        cls: the method.
        fresh: gives a backbone, with the same weights at every call.
        options: of the method's constructor.
        recipe: how it learns a toy task.
        file: the .py it came from, when that is outside the package.
    """

    cls: type[Method]
    fresh: Callable[[], Backbone]
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: Recipe = field(
        default_factory=lambda: Recipe(epochs=150, batch_size=24, optimizer="adam", lr=0.01)
    )
    file: Path | None = None

    def make(self, backbone: Backbone | None = None, seed: int = 1) -> Method:
        """Return the method before training."""
        torch.manual_seed(seed)
        task = Task(CLASSES, ("an eye with {}.",), shots=PER_CLASS, seed=seed)
        return self.cls.build(backbone or self.fresh(), task, self.options)

    def toy(self, backbone: Backbone) -> tuple[Tensor, Tensor]:
        """Return separable toy images (N, 3, S, S) with labels: one bright channel a class."""
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(len(CLASSES)).repeat(PER_CLASS)
        size = backbone.image_size
        pixels = torch.randn(len(labels), 3, size, size, generator=generator)
        pixels[torch.arange(len(labels)), labels] += 3
        return pixels.to(backbone.dtype), labels

    def trained(self, backbone: Backbone, seed: int = 1) -> tuple[Method, list[dict[str, float]]]:
        """Return the method after fit and training, with its learning curve."""
        training = self.prepare(backbone, seed)
        return training.method, training.alone().curve

    def prepare(self, backbone: Backbone, seed: int = 1) -> Training:
        """Return the method after fit, with how it is to be trained."""
        made = self.make(backbone, seed)
        pixels, labels = self.toy(backbone)
        with torch.no_grad():
            z = backbone.encode_image(pixels)
        views: Any = _Pairs(pixels, labels) if made.tunes_image_tower else None
        support = Part(z.unsqueeze(1), labels, views)
        return solve(made, support, Part(z[:0].unsqueeze(1), labels[:0]), self.recipe)


class _Pairs(torch.utils.data.Dataset[Any]):
    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.pixels[index], self.labels[index]
