"""Pixels on every step, for methods that tune the image tower."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.data import decoding
from clip_adapt.data.decoding import Decoded
from clip_adapt.data.items import Item
from clip_adapt.inputs import views
from clip_adapt.inputs.batches import Rows
from clip_adapt.inputs.crops import Crops
from clip_adapt.inputs.views import Augment
from clip_adapt.system.files import hash_file
from clip_adapt.system.machine import send

MEMORY = 2e9  # bytes that the decoded images of one subset may take


class Pixels(Dataset[Any]):
    """Transformed images (3, S, S) with their labels; a new random view in every epoch.

    Every image is decoded once. For random views it is kept as uint8, a large one smaller, with its
    short side at twice the input's (less only when the subset would not fit into ``MEMORY``); the
    centre view is kept as it enters the tower.

    Args:
        backbone: its transform.
        items: the images.
        augment: how views are made; ``none`` gives the centre view in every epoch.
        batched: make the views of a batch together (crops.py), the same within 2/255; None does so
            on a GPU. One core of a CPU takes several times as long that way.
    """

    def __init__(
        self,
        backbone: Backbone,
        items: list[Item],
        augment: Augment,
        batched: bool | None = None,
    ) -> None:
        self.backbone, self.items, self.augment = backbone, items, augment
        self.batched = backbone.device.type != "cpu" if batched is None else batched
        self.epoch = 0
        self._all = self
        # What is said to be trained on (the manifest) and what is decoded are the same bytes.
        self._keys = {item.path: hash_file(item.path) for item in items}
        self._decoded: dict[str, Decoded] = {}
        self._centre: dict[str, Tensor] = {}

    def set_epoch(self, epoch: int) -> None:
        """Say which view is wanted."""
        self.epoch = epoch

    def select(self, mask: Tensor) -> Pixels:
        """Return the images where the mask (N,) is True; what is decoded is shared."""
        items = [item for item, kept in zip(self.items, mask.tolist(), strict=True) if kept]
        part = Pixels(self.backbone, items, self.augment, self.batched)
        part._decoded, part._centre, part._all = self._decoded, self._centre, self._all
        part._keys = self._keys
        return part

    def batch(self, rows: list[int]) -> Tensor:
        """Return the views (n, 3, S, S) of images by their numbers, on the backbone's device."""
        if not self.batched:
            return send(torch.stack([self[row][0] for row in rows]), self.backbone.device)
        places = [self._all._place[self.items[row].path] for row in rows]
        if self.augment == "none":
            return self._all._still.at(torch.tensor(places))
        crops, draws = self._all._crops, []
        for row, place in zip(rows, places, strict=True):
            key, (height, width) = self._keys[self.items[row].path], crops.shapes[place]
            draws.append(views.draw_view(self.augment, self.epoch, key, width, height))
        mean, std = self._scale
        return (crops.make_views(places, draws) / 255 - mean) / std

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        item = self.items[index]
        if self.augment == "none":
            if item.path not in self._centre:
                self._centre[item.path] = self._make_centre(item.path)
            return self._centre[item.path], item.label
        image, key = self._decode_image(item.path), self._keys[item.path]
        return views.make_view(self.backbone, self.augment, self.epoch, key, image), item.label

    @cached_property
    def _place(self) -> dict[str, int]:
        return {path: place for place, path in enumerate(dict.fromkeys(i.path for i in self.items))}

    @cached_property
    def _crops(self) -> Crops:
        with decoding.open_decoders() as pool:
            kept = list(pool.map(lambda path: self._shrink(self._load(path)), self._place))
        return Crops(kept, self.backbone.device, self.backbone.image_size)

    @cached_property
    def _still(self) -> Rows:
        with decoding.open_decoders() as pool:
            made = torch.stack(list(pool.map(self._make_centre, self._place)))
            return Rows(made, self.backbone.device)

    @cached_property
    def _scale(self) -> tuple[Tensor, Tensor]:
        how, device = self.backbone.transform, self.backbone.device
        mean, std = (torch.tensor(how[k], device=device).view(3, 1, 1) for k in ("mean", "std"))
        return mean, std

    def _decode_image(self, path: str) -> Decoded:
        if path not in self._decoded:
            self._decoded[path] = self._shrink(self._load(path))
        return self._decoded[path]

    def _load(self, path: str) -> Decoded:
        return decoding.load(path, self._keys[path])

    def _make_centre(self, path: str) -> Tensor:
        return views.make_centre_view(self.backbone, self._load(path))

    def _shrink(self, image: Decoded) -> Decoded:
        size = self.backbone.image_size
        room = (MEMORY / 3 / max(1, len(self.items))) ** 0.5
        short = max(int(1.15 * size), min(2 * size, int(room)))
        sides = image.shape[1:] if isinstance(image, Tensor) else image.size
        if short >= min(sides):
            return image
        first, second = (round(side * short / min(sides)) for side in sides)
        if isinstance(image, Tensor):
            bicubic = InterpolationMode.BICUBIC
            return F.resize(image, [first, second], interpolation=bicubic, antialias=True)
        return image.resize((first, second), Image.Resampling.BICUBIC)
