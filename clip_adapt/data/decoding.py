"""Decoding: every common kind of image file becomes RGB, upright, or a reason why it cannot."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from clip_adapt.errors import InputError, list_lines
from clip_adapt.system.text.progress import make_bar

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
# What a photograph or a scan comes in, whatever the file is called. Pillow knows thirty more kinds;
# one of them (EPS) starts another program, and most are read by code that nobody looks after.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "AVIF", "PPM")
SMALLEST = 4  # pixels a side
BLOCKS = 3  # of 16 MB, that are kept for each thread: 12 megapixels
MOST_PIXELS = 89_478_485  # where Pillow's own limit is taken away: a quarter of a GB as RGB
IN_MEMORY = 1 << 28  # bytes of the largest file that is read as a whole to be checked
CHANGED = "it is not what it was when it was looked at: it has changed since. Run again"
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


def try_decode(path: str | os.PathLike[str], sha256: str | None = None) -> str | Image.Image:
    """Decode a file: the image, or in words why it cannot be read.

    Args:
        path: the file.
        sha256: the digest that its bytes must have; what is decoded are the bytes that had it.
    """
    return _open(path, lambda image, source: _make_upright_rgb(image), sha256)


def open_image(file: str | os.PathLike[str] | IO[bytes]) -> Image.Image:
    """Open an image as one of ``FORMATS``, by its content: the only door to Pillow's readers.

    Raises:
        PIL.UnidentifiedImageError: when it is anything else.
        OSError: when the file cannot be read.
    """
    return Image.open(file, formats=FORMATS)  # noqa: TID251 - the one place


def _open(
    path: str | os.PathLike[str], read: Callable[[Image.Image, str | bytes], T], sha256: str | None
) -> str | T:
    # What ``read`` makes of the opened file and of its path or its bytes.
    try:
        if not os.path.getsize(path):
            return "the file is empty (0 bytes)"
        if sha256 is None:
            with open_image(path) as image:
                _refuse_absurd(image)
                return read(image, os.fspath(path))
        with open(path, "rb") as file:
            held = _hold(file)
            if hashlib.file_digest(held, "sha256").hexdigest() != sha256:
                return CHANGED
            held.seek(0)
            with open_image(held) as image:
                _refuse_absurd(image)
                source = held.getvalue() if isinstance(held, io.BytesIO) else os.fspath(path)
                return read(image, source)
    except FileNotFoundError:
        return f"no such file (looked at {Path(path).absolute()})"
    except PermissionError:
        return "permission to read it is denied"
    except IsADirectoryError:
        return "this is a folder, not an image"
    except UnidentifiedImageError:
        return "this is no image that can be read"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return _describe_bomb()
    except _Refused as reason:
        return str(reason)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        return f"damaged: {error}"


def load(image: AnyImage, sha256: str | None = None) -> Decoded:
    """Return an image for ``views.make_view``: a JPEG file as uint8 (3, H, W).

    Args:
        image: as for ``decode``.
        sha256: of a file: the digest that its bytes must have.

    Raises:
        InputError: as ``decode`` does.
    """
    if not isinstance(image, str | os.PathLike):
        return decode(image)
    decoded = try_load(image, sha256)
    if isinstance(decoded, str):
        raise InputError(f"{os.fspath(image)}: {decoded}")
    return decoded


def try_load(path: str | os.PathLike[str], sha256: str | None = None) -> str | Decoded:
    """Decode a file for ``views.make_view``: a JPEG as uint8 (3, H, W), or why it cannot be read.

    Photographs of many megapixels are JPEG, and scaling a tensor takes a seventh of the time that
    scaling a picture takes. torchcodec gives the same pixels as Pillow, and several threads do not
    wait for one another in it; where it is not there Pillow decodes.

    Args:
        path: the file.
        sha256: as for ``try_decode``.
    """
    if os.fspath(path).lower().endswith((".jpg", ".jpeg")):
        return _open(path, _decode_jpeg, sha256)
    return try_decode(path, sha256)


def _decode_jpeg(image: Image.Image, source: str | bytes) -> Tensor:
    decode_jpeg = _find_jpeg_decoder()
    if decode_jpeg is not None and image.format == "JPEG":
        with contextlib.suppress(RuntimeError):  # Pillow says what is wrong with the file
            return decode_jpeg(source)
    return torch.from_numpy(np.array(_make_upright_rgb(image))).permute(2, 0, 1)


def _hold(file: io.BufferedReader) -> io.BufferedReader | io.BytesIO:
    # Bytes that nobody can change; of a huge file (slides in many pages) the first page is enough.
    large = os.fstat(file.fileno()).st_size > IN_MEMORY
    return file if large else io.BytesIO(file.read())


@functools.cache
def _find_jpeg_decoder() -> Callable[[str | bytes], Any] | None:
    try:
        from torchcodec.decoders import decode_jpeg
    except (ImportError, OSError, RuntimeError):  # or it was built for another torch
        return None
    return decode_jpeg


def _refuse_absurd(image: Image.Image) -> None:
    short, long = sorted(image.size)
    if short * long > (Image.MAX_IMAGE_PIXELS or MOST_PIXELS):
        raise _Refused(_describe_bomb())
    if short < SMALLEST:
        raise _Refused(f"{image.width} x {image.height} pixels: too small to show anything")
    if long > LONGEST * short:
        raise _Refused(
            f"{image.width} x {image.height} pixels: more than {LONGEST} times as long as wide"
        )


def _describe_bomb() -> str:
    limit = Image.MAX_IMAGE_PIXELS or MOST_PIXELS
    return f"more than {limit} pixels: refused as a decompression bomb"


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
    bar = make_bar(len(todo), "checking images", is_shown=bool(todo))
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
