"""An opened picture of any mode as RGB of 8 bits, upright."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile

from clip_adapt.data.formats.depth import find_bits, scale_integers, scale_shares
from clip_adapt.data.formats.kinds import open_image
from clip_adapt.data.formats.limits import Unusable
from clip_adapt.data.formats.orientation import read_orientation, turn_picture

# Tags of TIFF, and what they say.
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0
PLANAR, IN_PLANES = 284, 2
BITS_PER_SAMPLE = 258
PLANES = "its colours of 16 bits lie in a plane each, which is not read: save it with 8 bits"
# Kinds of which a second picture is one more moment or page. A JPEG's second one is its own.
IN_FRAMES = ("TIFF", "GIF", "WEBP", "PNG", "AVIF")
SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


@dataclass(frozen=True)
class Picture:
    """What a file was read as.

    Attributes:
        image: RGB, upright.
        bits: how many of its 16 bits the file uses; 0 where it has no 16, or uses all of them.
        several: the file holds more pictures; this is the first.
    """

    image: Image.Image
    bits: int = 0
    several: bool = False


def convert(image: Image.Image) -> Picture:
    """Load an opened picture and convert it; transparency is dropped.

    Nothing is copied that need not be: a copy of 6 megapixels takes a third of their decoding.

    Raises:
        Unusable: when its values have no known range.
        OSError, ValueError and others: what Pillow raises for a damaged file.
    """
    several, from_white = _has_several(image), _is_white_zero(image)
    deep = _hold_deep_colours(image)
    image.load()
    turn = read_orientation(image)
    if deep is not None:
        rgb, bits = _join_bytes(image, deep)
    else:
        rgb, bits = _make_rgb(image, from_white)
    return Picture(turn_picture(rgb, turn), 0 if bits == 16 else bits, several)


def _make_rgb(image: Image.Image, from_white: bool) -> tuple[Image.Image, int]:
    bits = 16
    if image.mode.startswith("I"):
        values, bits = scale_integers(np.asarray(image))
        image = Image.fromarray(255 - values if from_white else values)
    elif image.mode == "F":
        values = scale_shares(np.asarray(image))
        image = Image.fromarray(255 - values if from_white else values)
    elif image.mode == "La":
        image = image.convert("LA")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # colours that are not seen are colours, too
    return (image if image.mode == "RGB" else image.convert("RGB")), bits


def _is_white_zero(image: Image.Image) -> bool:
    # Pillow turns such values round where they have 8 bits, and leaves them where they have more.
    tags = getattr(image, "tag_v2", {})
    return tags.get(PHOTOMETRIC) == WHITE_IS_ZERO


def _has_several(image: Image.Image) -> bool:
    if image.format not in IN_FRAMES:
        return bool(image.info.get("several"))
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the second one is damaged
        return True


def _find_raw_mode(image: Image.Image) -> str:
    # How the values lie in a file that is not loaded yet; "" when it is.
    tile = image.tile[0] if isinstance(image, ImageFile.ImageFile) and image.tile else None
    args = getattr(tile, "args", None)
    raw = args[0] if isinstance(args, tuple) and args else args
    return raw if isinstance(raw, str) else ""


def _hold_deep_colours(image: Image.Image) -> bytes | None:
    # The whole file, when its colours have 16 bits: loading closes it.
    if image.mode not in ("RGB", "RGBA"):
        return None
    raw = _find_raw_mode(image)
    if raw == "R" and 16 in getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, ()):
        raise Unusable(PLANES)  # Pillow takes each byte for a value
    if raw[-4:-1] != ";16":
        return None
    assert isinstance(image, ImageFile.ImageFile) and image.fp is not None
    before = image.fp.tell()
    image.fp.seek(0)
    data = image.fp.read()
    image.fp.seek(before)
    return data


def _join_bytes(image: Image.Image, data: bytes) -> tuple[Image.Image, int]:
    # Pillow keeps the upper byte of each colour, which of 10 or 12 bits leaves a black picture.
    high = np.asarray(image)[..., :3]
    if find_bits(256 * int(high.max()) + 255) == 16:
        return image.convert("RGB"), 16
    low = _read_low_bytes(data)
    values, bits = scale_integers(high.astype(np.uint16) * 256 + low)
    return Image.fromarray(values), bits


def _read_low_bytes(data: bytes) -> np.ndarray:
    # What stands in the lower bytes Pillow gives where it is told the other byte order.
    other = open_image(io.BytesIO(data))
    assert isinstance(other, ImageFile.ImageFile)
    if getattr(other, "tag_v2", {}).get(PLANAR) == IN_PLANES:
        raise Unusable(PLANES)
    raw = _find_raw_mode(other)
    if raw.startswith("LA"):  # which it knows in one order alone
        raise Unusable("grey and transparent with fewer than 16 bits in 16: save it without alpha")
    name = raw[:-1] + SWAPPED[raw[-1]]
    other.tile = [
        tile._replace(args=(name, *tile.args[1:]) if isinstance(tile.args, tuple) else name)
        for tile in other.tile
    ]
    other.load()
    return np.asarray(other)[..., :3]
