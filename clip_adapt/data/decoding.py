"""Decoding: every common kind of image file becomes RGB, upright, or a reason why it cannot.

One file gives one result, whichever door it comes through: its path, its bytes, a file object, a
picture that Pillow opened, or an array of its pixels.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from clip_adapt.data.formats.arrays import read_array
from clip_adapt.data.formats.conversion import Picture, convert
from clip_adapt.data.formats.handed import read_bytes
from clip_adapt.data.formats.jpeg import try_decode_jpeg
from clip_adapt.data.formats.kinds import FORMATS, SUFFIXES, explain_suffix, open_image
from clip_adapt.data.formats.limits import Unusable, describe_bomb, refuse_absurd
from clip_adapt.data.formats.orientation import read_orientation, turn_pixels
from clip_adapt.errors import InputError, list_lines
from clip_adapt.system.text.progress import make_bar

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "AnyImage",
    "Decoded",
    "Picture",
    "decode",
    "explain_suffix",
    "find_broken",
    "load",
    "open_decoders",
    "refuse_broken",
    "try_decode",
    "try_examine",
    "try_load",
]

BLOCKS = 3  # of 16 MB, that are kept for each thread: 12 megapixels
IN_MEMORY = 1 << 28  # bytes of the largest file that is read as a whole to be checked
# Pixels below which Pillow scales an image, as open_clip's transform does, to the last bit. Above,
# scaling a tensor, the same within 2/255, takes a tenth of the time: a photograph's milliseconds.
FEW = 200 * 200
LONGEST_REASON = 300  # characters of what a reader says
CHANGED = "it is not what it was when it was looked at: it has changed since. Run again"

Source = str | os.PathLike[str] | bytes  # a path, or a file's content
AnyImage = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]
    | Image.Image | np.ndarray | Tensor
)  # fmt: skip
Decoded = Image.Image | Tensor  # RGB, or uint8 (3, H, W)
T = TypeVar("T")


def decode(image: AnyImage) -> Image.Image:
    """Return an image as RGB, upright (EXIF orientation applied).

    Transparency is dropped, values of 16 bits are scaled to 8 by the bits that are used, and the
    first frame stands for an animation.

    Args:
        image: a path; the bytes of a file, or a file object opened with "rb"; a PIL image; an array
            or a tensor, (H, W), (H, W, 3) or (3, H, W), of uint8, uint16 or floats from 0 to 1.

    Raises:
        InputError: when the file is missing, empty, truncated, no image, or absurdly large.
    """
    return _take(image, try_decode)


def load(image: AnyImage, sha256: str | None = None) -> Decoded:
    """Return an image for ``views.make_view``: a large one as uint8 (3, H, W).

    Args:
        image: as for ``decode``.
        sha256: of a file: the digest that its bytes must have.

    Raises:
        InputError: as ``decode`` does.
    """
    loaded: Decoded = _take(image, lambda source: try_load(source, sha256))
    return _choose_form(loaded) if isinstance(loaded, Image.Image) else loaded


def try_decode(
    source: Source, sha256: str | None = None, draft: int | None = None
) -> str | Image.Image:
    """Decode a file: the image, or in words why it cannot be read.

    Args:
        source: its path, or its bytes.
        sha256: the digest that its bytes must have; what is decoded are the bytes that had it.
        draft: the sides that will do, in pixels: a JPEG decoder can halve the size while it
            decodes, and a photograph takes milliseconds.
    """

    def read(image: Any, file: IO[bytes]) -> Image.Image:
        if draft is not None and _is_jpeg(image):
            image.draft("RGB", (draft, draft))
        return convert(image).image

    return _open(source, read, sha256)


def try_examine(source: Source) -> str | Picture:
    """Decode a file and say what else was seen of it, or why it cannot be read."""
    return _open(source, lambda image, file: convert(image), None)


def try_load(source: Source, sha256: str | None = None) -> str | Decoded:
    """Decode a file for ``views.make_view``, or say why it cannot be read.

    Args:
        source: its path, or its bytes.
        sha256: as for ``try_decode``.
    """
    return _open(source, _load_opened, sha256)


def _take(image: Any, read: Callable[[Source], str | T]) -> T | Image.Image:
    # What ``read`` makes of a file, wherever its bytes are; anything else as a picture.
    found: str | T | Image.Image
    if isinstance(image, Image.Image | np.ndarray | Tensor):
        name, found = "this image cannot be used", _guard(lambda: _read_held(image))
    elif isinstance(image, str | os.PathLike):
        name, found = os.fspath(image), read(image)
    else:
        data = read_bytes(image)
        name, found = f"these {len(data)} bytes", read(data)
    if isinstance(found, str):
        raise InputError(f"{name}: {found}")
    return found


def _read_held(image: Image.Image | np.ndarray | Tensor) -> Image.Image:
    picture = image if isinstance(image, Image.Image) else read_array(image)
    refuse_absurd(*picture.size)
    made = convert(picture).image
    return made.copy() if made is image else made  # the user's own stays as it is


def _load_opened(image: Image.Image, file: IO[bytes]) -> Decoded:
    if _is_jpeg(image) and image.width * image.height >= FEW:
        file.seek(0)
        pixels = try_decode_jpeg(file.read())
        if pixels is not None:
            return turn_pixels(pixels, read_orientation(image))
    return _choose_form(convert(image).image)


def _choose_form(image: Image.Image) -> Decoded:
    # The form decides how an image is scaled, so it depends on nothing but the size.
    if image.width * image.height < FEW:
        return image
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _is_jpeg(image: Image.Image) -> bool:
    return image.format in ("JPEG", "MPO")  # several of them in one file, as telephones write


def _open(
    source: Source, read: Callable[[Image.Image, IO[bytes]], T], sha256: str | None
) -> str | T:
    # What ``read`` makes of the opened image and of the file that it was opened from.
    def work() -> str | T:
        size = len(source) if isinstance(source, bytes) else os.path.getsize(source)
        if not size:
            return "the file is empty (0 bytes)"
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            if sha256 is not None:
                # Bytes that nobody can change; of a huge file (slides in many pages) the first
                # page is enough.
                file = file if size > IN_MEMORY else io.BytesIO(file.read())
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    return CHANGED
                file.seek(0)
            with open_image(file) as image:
                refuse_absurd(*image.size)
                return read(image, file)

    return _guard(work, source)


def _guard(work: Callable[[], T], source: object = None) -> str | T:
    # A file's content decides what a reader raises; none of it may end a run of many files.
    try:
        return work()
    except FileNotFoundError:
        return f"no such file (looked at {Path(os.fsdecode(source)).absolute()})"  # type: ignore[arg-type]
    except PermissionError:
        return "permission to read it is denied"
    except IsADirectoryError:
        return "this is a folder, not an image"
    except UnidentifiedImageError:
        return "this is no image that can be read"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return describe_bomb()
    except Unusable as reason:
        return str(reason)
    except MemoryError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:LONGEST_REASON]
        return f"damaged: {said or type(error).__name__}"


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
