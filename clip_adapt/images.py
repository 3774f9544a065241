"""Decoding, and the views of an image: the centre view and random augmented ones."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from clip_adapt.errors import InputError, listed
from clip_adapt.files import write_text

if TYPE_CHECKING:
    from clip_adapt.backbone import Backbone

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
Augment = Literal["coop", "none"]

AnyImage = str | os.PathLike[str] | Image.Image | np.ndarray


def decode(image: AnyImage) -> Image.Image:
    """Return an image as RGB, upright (EXIF orientation applied).

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
        return ImageOps.exif_transpose(image).convert("RGB")
    decoded = try_decode(image)
    if isinstance(decoded, str):
        raise InputError(f"{os.fspath(image)}: {decoded}")
    return decoded


def try_decode(path: str | os.PathLike[str]) -> str | Image.Image:
    """Decode a file: the image, or in words why it cannot be read."""
    try:
        if not os.path.getsize(path):
            return "the file is empty (0 bytes)"
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        return f"no such file (looked at {Path(path).absolute()})"
    except IsADirectoryError:
        return "this is a folder, not an image"
    except UnidentifiedImageError:
        return "this is no image that can be read"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return f"more than {Image.MAX_IMAGE_PIXELS} pixels: refused as a decompression bomb"
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        return f"damaged: {error}"


def find_broken(paths: Iterable[str], memory: Path | None = None) -> dict[str, str]:
    """Decode every file; return the reasons of those that cannot be read, by path.

    Args:
        paths: image files.
        memory: a JSON file that remembers which files were good (by size and time of change), so
            that they are not decoded again; None forgets.
    """
    good = _remembered(memory)
    stamps = {path: _stamp(path) for path in dict.fromkeys(paths)}
    todo = [path for path, stamp in stamps.items() if stamp is None or good.get(path) != stamp]
    bar = tqdm(total=len(todo), desc="checking images", unit="img", disable=None if todo else True)
    reasons: dict[str, str] = {}
    with bar, ThreadPoolExecutor(workers()) as pool:
        for path, reason in zip(todo, pool.map(_reason, todo), strict=True):
            bar.update()
            if reason:
                reasons[path] = reason
    if memory is not None and todo:
        fresh = {path: stamp for path, stamp in stamps.items() if path not in reasons}
        with contextlib.suppress(InputError):  # a cache that cannot be written costs time only
            write_text(memory, json.dumps(good | fresh))
    return reasons


def refuse_broken(
    reasons: dict[str, str],
    remedy: str = "Repair or remove them, or go on without them: on_bad_image=skip",
) -> None:
    """Raise an InputError that lists unreadable images, if there are any."""
    if reasons:
        lines = listed((f"{path}: {reason}" for path, reason in reasons.items()), limit=100)
        raise InputError(f"{len(reasons)} images cannot be read:\n{lines}\n{remedy}")


def view(backbone: Backbone, augment: Augment, index: int, key: str, image: Image.Image) -> Tensor:
    """Return one view (3, S, S) of an image.

    A random view depends only on the image and its index, so every method and seed shares it.

    Args:
        backbone: its evaluation transform and image size.
        augment: ``coop`` crops and flips at random, ``none`` gives the centre view.
        index: number of the view; -1 is the centre view.
        key: what identifies the image (its SHA-256).
        image: the decoded image.
    """
    if index >= 0 and augment == "coop":
        image = _crop_and_flip(image, backbone.image_size, random.Random(f"{key}/{index}"))
    return backbone.preprocess(image)


def _reason(path: str) -> str | None:
    result = try_decode(path)
    return result if isinstance(result, str) else None


def _remembered(memory: Path | None) -> dict[str, list[int]]:
    try:
        return json.loads(memory.read_text(encoding="utf-8")) if memory else {}
    except (OSError, ValueError):
        return {}


def _stamp(path: str) -> list[int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _crop_and_flip(image: Image.Image, size: int, stream: random.Random) -> Image.Image:
    box = _random_box(*image.size, stream)
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return ImageOps.mirror(image) if stream.random() < 0.5 else image


def _random_box(width: int, height: int, stream: random.Random) -> tuple[int, int, int, int]:
    # RandomResizedCrop: 8 % to 100 % of the area, aspect ratio 3:4 to 4:3 (log-uniform), ten tries.
    for _ in range(10):
        area = width * height * stream.uniform(0.08, 1.0)
        ratio = math.exp(stream.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = stream.randint(0, width - w), stream.randint(0, height - h)
            return left, top, left + w, top + h
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def workers() -> int:
    """Return how many threads decode images: as many as there are cores, at most 16."""
    return min(16, os.cpu_count() or 1)
