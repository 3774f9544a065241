"""The views of an image: the centre view of the backbone, and random ones to train on.

| preset | crop (share of the area) | ratio of the sides | flip | light |
|---|---|---|---|---|
| ``coop`` | 0.08 to 1 | 3:4 to 4:3 | left and right | as it is |
| ``light`` | 0.5 to 1 | 3:4 to 4:3 | left and right | as it is |
| ``medical`` | 0.7 to 1 | 9:10 to 10:9 | none: left stays left | brightness, contrast 10 % |
| ``none`` | the centre view | | | |

No preset changes a hue: in medicine a colour is a finding. ``coop`` is the published recipe.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from clip_adapt.data.decoding import Decoded

if TYPE_CHECKING:
    from clip_adapt.backbone.backbone import Backbone

Augment = Literal["coop", "light", "medical", "none"]
Box = tuple[int, int, int, int]  # left, top, right, bottom

# Pillow 13 scales along rows first, as torchvision always does, unless a picture is tall; in the
# other order overshoots at sharp edges are cut off elsewhere, by up to 23/255 in single pixels.
# Measured over 150 sizes: rows first when the height is at most the width, and when the ratio is
# kept and the height is below twice the width. Taller ones go through Pillow.
TALL = 1.9

MADE_BY = "uint8-2"  # part of a feature's key: changes when a view's pixels do


@dataclass(frozen=True)
class Preset:
    """How random views are made: share of the area, ratio of the sides, mirrored or not, light."""

    area: float
    ratio: float
    flip: bool
    light: float = 0.0


PRESETS: dict[str, Preset] = {
    "coop": Preset(0.08, 4 / 3, flip=True),
    "light": Preset(0.5, 4 / 3, flip=True),
    "medical": Preset(0.7, 10 / 9, flip=False, light=0.1),
}


@dataclass(frozen=True)
class ViewParameters:
    """What is drawn for a random view.

    Attributes:
        box: the part of the image that is seen.
        mirrored: whether left and right change places.
        light: factors of brightness and contrast, or None.
    """

    box: Box
    mirrored: bool
    light: tuple[float, float] | None


def draw_view(augment: Augment, index: int, key: str, width: int, height: int) -> ViewParameters:
    """Return what is drawn for a view of an image of these sides; for ``view``'s arguments."""
    preset, stream = PRESETS[augment], random.Random(f"{key}/{index}")
    box = _draw_box(width, height, stream, preset)
    mirrored = preset.flip and stream.random() < 0.5
    low, high = 1 - preset.light, 1 + preset.light
    light = (stream.uniform(low, high), stream.uniform(low, high)) if preset.light else None
    return ViewParameters(box, mirrored, light)


def make_view(backbone: Backbone, augment: Augment, index: int, key: str, image: Decoded) -> Tensor:
    """Return one view (3, S, S) of an image.

    A random view depends only on the image and its index, so every method and seed shares it.

    Args:
        backbone: its evaluation transform and image size.
        augment: the preset of random views; ``none`` gives the centre view.
        index: number of the view; -1 is the centre view.
        key: what identifies the image (its SHA-256).
        image: the decoded image; uint8 pixels (3, H, W) give the same within 2/255.
    """
    if index >= 0 and augment != "none":
        width, height = image.size if isinstance(image, Image.Image) else image.shape[:0:-1]
        drawn = draw_view(augment, index, key, width, height)
        return normalise_pixels(backbone, _render_view(drawn, backbone.image_size, image))
    return make_centre_view(backbone, image)


def make_centre_view(backbone: Backbone, image: Decoded) -> Tensor:
    """Return the centre view (3, S, S), as ``backbone.preprocess`` gives it."""
    how = backbone.transform
    if isinstance(image, Image.Image):
        return backbone.preprocess(image)
    usual = how["resize_mode"] == "shortest" and how["interpolation"] in ("bicubic", "bilinear")
    if not usual or image.shape[1] > TALL * image.shape[2]:
        return backbone.preprocess(F.to_pil_image(image))
    size, mode = backbone.image_size, InterpolationMode(how["interpolation"])
    scaled = F.resize(image, [size], interpolation=mode, antialias=True)
    return normalise_pixels(backbone, F.center_crop(scaled, [size, size]))


def normalise_pixels(backbone: Backbone, pixels: Tensor) -> Tensor:
    """Return pixels (..., 3, S, S) of 0 to 255 as they enter the tower."""
    mean, std = (torch.tensor(backbone.transform[k]).view(3, 1, 1) for k in ("mean", "std"))
    return pixels.float().div(255).sub_(mean).div_(std)


def _render_view(drawn: ViewParameters, size: int, image: Decoded) -> Tensor:
    pixels = _crop_and_scale(image, drawn.box, size)
    if drawn.mirrored:
        pixels = pixels.flip(-1)
    if drawn.light is not None:
        brightness, contrast = drawn.light
        pixels = F.adjust_contrast(F.adjust_brightness(pixels, brightness), contrast)
    return pixels


def _crop_and_scale(image: Decoded, box: Box, size: int) -> Tensor:
    # Cropped, then scaled: nothing outside the crop is seen (as torchvision's RandomResizedCrop).
    left, top, right, bottom = box
    tall = bottom - top > right - left
    if isinstance(image, Image.Image) or tall:
        picture = image.crop(box) if isinstance(image, Image.Image) else _crop_picture(image, box)
        scaled = picture.resize((size, size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(scaled)).permute(2, 0, 1)
    part = image[:, top:bottom, left:right]
    return F.resize(part, [size, size], interpolation=InterpolationMode.BICUBIC, antialias=True)


def _crop_picture(pixels: Tensor, box: Box) -> Image.Image:
    left, top, right, bottom = box
    return Image.fromarray(pixels[:, top:bottom, left:right].permute(1, 2, 0).contiguous().numpy())


def _draw_box(width: int, height: int, stream: random.Random, preset: Preset) -> Box:
    # RandomResizedCrop: a share of the area, the ratio of the sides log-uniform, ten tries.
    bound = math.log(preset.ratio)
    for _ in range(10):
        area = width * height * stream.uniform(preset.area, 1.0)
        ratio = math.exp(stream.uniform(-bound, bound))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = stream.randint(0, width - w), stream.randint(0, height - h)
            return left, top, left + w, top + h
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side
