"""Turning a picture as the camera was held: the one tag that says so, and nothing else of EXIF."""

from __future__ import annotations

import torch
from PIL import ExifTags, Image
from torch import Tensor

Turn = Image.Transpose
# EXIF 2.3, tag 0x0112: what makes the picture upright.
TURNS = {
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_270,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_90,
}
# The same for pixels (3, H, W): whether height and width change places, then what is mirrored.
STEPS: dict[int, tuple[bool, tuple[int, ...]]] = {
    2: (False, (2,)),
    3: (False, (1, 2)),
    4: (False, (1,)),
    5: (True, ()),
    6: (True, (2,)),
    7: (True, (1, 2)),
    8: (True, (1,)),
}


def read_orientation(image: Image.Image) -> int:
    """Return the tag's value, 1 (upright) where there is none that can be read.

    Other tags may be damaged; Pillow's ``exif_transpose`` writes all of them again, and fails.
    """
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Warning:  # the user asked for errors
        raise
    except Exception:
        return 1
    return value if isinstance(value, int) and value in TURNS else 1


def turn_picture(image: Image.Image, orientation: int) -> Image.Image:
    """Return a picture upright."""
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def turn_pixels(pixels: Tensor, orientation: int) -> Tensor:
    """Return pixels (3, H, W) upright."""
    swapped, mirrored = STEPS.get(orientation, (False, ()))
    turned = pixels.transpose(1, 2) if swapped else pixels
    return torch.flip(turned, mirrored) if mirrored else turned
