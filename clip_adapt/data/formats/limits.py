"""What no image may be, whatever it comes in: too large, too small, too narrow."""

from __future__ import annotations

from PIL import Image

SMALLEST = 4  # pixels a side
LONGEST = 50  # times the shorter side: at 224 pixels a view of more would take over 30 MB
MOST_PIXELS = 89_478_485  # where Pillow's own limit is taken away: a quarter of a GB as RGB


class Unusable(Exception):
    """An image that is not used; the message says why."""


def refuse_absurd(width: int, height: int) -> None:
    """Refuse the sides of an image before anything of that size is made.

    Raises:
        Unusable: when nothing could be seen on it, or it would fill the memory.
    """
    short, long = sorted((width, height))
    if short * long > (Image.MAX_IMAGE_PIXELS or MOST_PIXELS):
        raise Unusable(describe_bomb())
    if short < SMALLEST:
        raise Unusable(f"{width} x {height} pixels: too small to show anything")
    if long > LONGEST * short:
        raise Unusable(f"{width} x {height} pixels: more than {LONGEST} times as long as wide")


def describe_bomb() -> str:
    """Return what is said of an image of too many pixels."""
    limit = Image.MAX_IMAGE_PIXELS or MOST_PIXELS
    return f"more than {limit} pixels: refused as a decompression bomb"
