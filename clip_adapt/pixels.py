"""Pixels on every step, for methods that tune the image tower."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from clip_adapt import images, views
from clip_adapt.backbone import Backbone
from clip_adapt.data import Item
from clip_adapt.files import sha256
from clip_adapt.views import Augment


class Pixels(Dataset[Any]):
    """Transformed images (3, S, S) with their labels; a new random view in every epoch.

    Args:
        backbone: its transform.
        items: the images.
        augment: how views are made; ``none`` gives the centre view in every epoch.
    """

    def __init__(self, backbone: Backbone, items: list[Item], augment: Augment) -> None:
        self.backbone, self.items, self.augment = backbone, items, augment
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which view is wanted."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        item = self.items[index]
        image = images.load(item.path)
        key = sha256(item.path)
        return views.view(self.backbone, self.augment, self.epoch, key, image), item.label
