"""Small copies of images, inside the page itself."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clip_adapt.data import decoding
from clip_adapt.pages.rendering import write_data_uri

log = logging.getLogger(__name__)

EDGE = 144  # pixels
QUALITY = 78


def make_thumbnails(
    paths: Iterable[str], digests: Mapping[str, str], edge: int = EDGE
) -> dict[str, str]:
    """Return a data URI for every file that is the one that the run saw.

    A run's folder may be somebody else's, and its files name any path. A picture that cannot be
    read any more, or whose content is not what the run saw, has none.

    Args:
        paths: the files.
        digests: SHA-256 in hex, by path.
        edge: of the longer side, in pixels.
    """
    unique = list(dict.fromkeys(paths))

    def make(path: str) -> str | None:
        return _make_thumbnail(path, edge) if _is_file_of(path, digests.get(path)) else None

    with decoding.open_decoders() as pool:
        made = dict(zip(unique, pool.map(make, unique), strict=True))
    others = [path for path, uri in made.items() if uri is None and Path(path).is_file()]
    if others:
        log.warning(
            "%d pictures are not shown: they are not what the run saw, or its files hold no "
            "SHA-256 of them. They are, for example, %s",
            len(others),
            others[0],
        )
    return {path: uri for path, uri in made.items() if uri}


def draw_heat(shares: NDArray[np.float64], rgb: tuple[int, int, int]) -> str:
    """Return a picture (a data URI) of numbers from 0 to 1, one pixel a number.

    The colour is the same everywhere and the number is its opacity, so that the picture fits a
    light page and a dark one.
    """
    pixels = np.zeros((*shares.shape, 4), dtype=np.uint8)
    pixels[..., :3] = rgb
    pixels[..., 3] = np.rint(255 * shares)
    return _write_uri(Image.fromarray(pixels), "png")


def _is_file_of(path: str, digest: str | None) -> bool:
    try:
        if digest is None or not Path(path).is_file():
            return False
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except (OSError, ValueError):
        return False


def _make_thumbnail(path: str, edge: int = EDGE) -> str | None:
    image = decoding.try_decode(path, draft=2 * edge)
    if isinstance(image, str):
        return None
    image.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    return _write_uri(image, "jpeg", quality=QUALITY)


def _write_uri(image: Image.Image, kind: str, **options: int) -> str:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return write_data_uri(data.getvalue(), kind)
