"""Decoding: every common kind of image file becomes RGB, upright, or a reason why it cannot."""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from clip_adapt.errors import InputError, list_lines

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
SMALLEST = 4  # pixels a side
BLOCKS = 3  # of 16 MB, that are kept for each thread: 12 megapixels
LONGEST = 50  # times the shorter side: at 224 pixels a view of more would take over 30 MB

AnyImage = str | os.PathLike[str] | Image.Image | np.ndarray
Decoded = Image.Image | Tensor  # RGB, or uint8 (3, H, W)
T = TypeVar("T")


class _Refused(Exception):
    """An image that is read and not used; the message says why."""


def decode(image: AnyImage) -> Image.Image:
    """Return an image as RGB, upright (EXIF orientation applied).

    Transparency is dropped, values of 16 bits are scaled to 8, and the first frame stands for an
    animation.

    Args:
        image: a path, a PIL image, or an array (H, W, 3) or (H, W) of uint8.

    Raises:
        InputError: when the file is missing, empty, truncated, no image, or absurdly large.
    """
    if isinstance(image, np.ndarray):
        fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
        if image.dtype != np.uint8 or not fits:
            raise InputError(
                f"an array image must be uint8 (H, W, 3) or (H, W), not {image.dtype} {image.shape}"
            )
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        try:
            return _make_upright_rgb(image.copy())
        except _Refused as reason:
            raise InputError(f"this image cannot be used: {reason}") from reason
    decoded = try_decode(image)
    if isinstance(decoded, str):
        raise InputError(f"{os.fspath(image)}: {decoded}")
    return decoded


def try_decode(path: str | os.PathLike[str]) -> str | Image.Image:
    """Decode a file: the image, or in words why it cannot be read."""
    return _open(path, _make_upright_rgb)


def _open(path: str | os.PathLike[str], read: Callable[[Image.Image], T]) -> str | T:
    # What ``read`` makes of the opened file.
    try:
        if not os.path.getsize(path):
            return "the file is empty (0 bytes)"
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                _refuse_absurd(image)
                return read(image)
    except FileNotFoundError:
        return f"no such file (looked at {Path(path).absolute()})"
    except IsADirectoryError:
        return "this is a folder, not an image"
    except UnidentifiedImageError:
        return "this is no image that can be read"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return f"more than {Image.MAX_IMAGE_PIXELS} pixels: refused as a decompression bomb"
    except _Refused as reason:
        return str(reason)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        return f"damaged: {error}"


def load(image: AnyImage) -> Decoded:
    """Return an image for ``views.make_view``: a JPEG file as uint8 (3, H, W).

    Raises:
        InputError: as ``decode`` does.
    """
    if not isinstance(image, str | os.PathLike):
        return decode(image)
    decoded = try_load(image)
    if isinstance(decoded, str):
        raise InputError(f"{os.fspath(image)}: {decoded}")
    return decoded


def try_load(path: str | os.PathLike[str]) -> str | Decoded:
    """Decode a file for ``views.make_view``: a JPEG as uint8 (3, H, W), or why it cannot be read.

    Photographs of many megapixels are JPEG, and scaling a tensor takes a seventh of the time that
    scaling a picture takes. torchcodec gives the same pixels as Pillow, and several threads do not
    wait for one another in it; where it is not there Pillow decodes.
    """
    if os.fspath(path).lower().endswith((".jpg", ".jpeg")):
        return _open(path, lambda image: _decode_jpeg(os.fspath(path), image))
    return try_decode(path)


def _decode_jpeg(path: str, image: Image.Image) -> Tensor:
    decode_jpeg = _find_jpeg_decoder()
    if decode_jpeg is not None and image.format == "JPEG":
        with contextlib.suppress(RuntimeError):  # Pillow says what is wrong with the file
            return decode_jpeg(path)
    return torch.from_numpy(np.array(_make_upright_rgb(image))).permute(2, 0, 1)


@functools.cache
def _find_jpeg_decoder() -> Callable[[str], Any] | None:
    try:
        from torchcodec.decoders import decode_jpeg
    except (ImportError, OSError, RuntimeError):  # or it was built for another torch
        return None
    return decode_jpeg


def _refuse_absurd(image: Image.Image) -> None:
    short, long = sorted(image.size)
    if short < SMALLEST:
        raise _Refused(f"{image.width} x {image.height} pixels: too small to show anything")
    if long > LONGEST * short:
        raise _Refused(
            f"{image.width} x {image.height} pixels: more than {LONGEST} times as long as wide"
        )


def _make_upright_rgb(image: Image.Image) -> Image.Image:
    # Nothing is copied that need not be: a copy of 6 megapixels takes a third of their decoding.
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return _scale_to_eight_bits(image)
    if image.mode == "F":
        raise _Refused("its values have no known range (32-bit float): save it with 8 or 16 bits")
    return image if image.mode == "RGB" else image.convert("RGB")


def _scale_to_eight_bits(image: Image.Image) -> Image.Image:
    # Pillow would clip: every value above 255 would be white.
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise _Refused("its values have no known range (32-bit): save it with 8 or 16 bits")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8)).convert(
        "RGB"
    )


def find_broken(paths: Iterable[str]) -> dict[str, str]:
    """Decode every file; return the reasons of those that cannot be read, by path."""
    todo = list(dict.fromkeys(paths))
    bar = tqdm(total=len(todo), desc="checking images", unit="img", disable=None if todo else True)
    reasons: dict[str, str] = {}
    with bar, open_decoders() as pool:
        for path, reason in zip(todo, pool.map(_explain, todo), strict=True):
            bar.update()
            if reason:
                reasons[path] = reason
    return reasons


def refuse_broken(
    reasons: dict[str, str],
    remedy: str = "Repair or remove them, or go on without them: on_bad_image=skip",
) -> None:
    """Raise an InputError that lists unreadable images, if there are any."""
    if reasons:
        lines = list_lines((f"{path}: {reason}" for path, reason in reasons.items()), limit=100)
        raise InputError(f"{len(reasons)} images cannot be read:\n{lines}\n{remedy}")


def _explain(path: str) -> str | None:
    result = try_decode(path)
    return result if isinstance(result, str) else None


@contextlib.contextmanager
def open_decoders() -> Iterator[ThreadPoolExecutor]:
    """Give threads that decode images: as many as there are cores, at most 16.

    Meanwhile Pillow keeps the memory of decoded images for the next ones: getting it from the
    system anew takes as long as decoding half of a photograph.
    """
    workers = min(16, os.cpu_count() or 1)
    before = Image.core.get_blocks_max()
    Image.core.set_blocks_max(max(before, BLOCKS * workers))
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
        pool.shutdown()
    finally:
        # Of a stopped run nobody waits for the images that are still to be decoded.
        pool.shutdown(wait=False, cancel_futures=True)
        Image.core.set_blocks_max(before)
