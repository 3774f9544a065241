"""JPEG by torchcodec, which several threads do not wait for one another in.

It gives the same pixels as Pillow. Where it is not there, or refuses a file, Pillow decodes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

# Markers: the pixels, where tags have ended; a segment of tags; one that nobody reads.
SCAN, APP1, APP15 = 0xDA, 0xE1, 0xEF


@functools.cache
def find_decoder() -> Callable[[bytes], Any] | None:
    """Return torchcodec's function, or None."""
    try:
        from torchcodec.decoders import decode_jpeg
    except (ImportError, OSError, RuntimeError):  # or it was built for another torch
        return None
    return decode_jpeg


def try_decode_jpeg(data: bytes) -> Tensor | None:
    """Return the pixels (3, H, W) of a JPEG file as they lie in it, not turned by its EXIF."""
    decode = find_decoder()
    hidden = None if decode is None else hide_exif(data)
    if decode is None or hidden is None:
        return None
    try:
        return decode(hidden)
    except RuntimeError:  # Pillow says what is wrong with the file
        return None


def hide_exif(data: bytes) -> bytes | None:
    """Return a JPEG file whose EXIF nobody finds; None where its segments cannot be followed.

    torchcodec turns a picture by what it finds there, and finds in damaged tags, or in a second
    segment, something else than Pillow does.
    """
    found, place = list[int](), 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == SCAN:
            return _overwrite(data, found) if found else data
        if marker == APP1:
            found.append(place + 1)
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None


def _overwrite(data: bytes, places: list[int]) -> bytes:
    held = bytearray(data)
    for place in places:
        held[place] = APP15
    return bytes(held)
