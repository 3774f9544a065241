"""Values that people hand over in Python: taken for what they plainly are, or refused in a line.

A message names types and places, never what a value holds: it may be a whole file.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from clip_adapt.data.decoding import AnyImage
from clip_adapt.data.formats.handed import describe_type
from clip_adapt.errors import InputError

ONE_IMAGE = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
SEVERAL = 4  # axes of an array that holds several images


def split_images(images: Any) -> tuple[bool, Iterable[AnyImage]]:
    """Tell one image from several: return whether there may be several, and the images.

    Several are a list, a tuple, a generator, a column of a table, an array of paths, or an array or
    tensor of four axes. What each of them is ``decoding.load`` finds out.

    Raises:
        InputError: when it is neither an image nor anything that holds images in an order.
    """
    if isinstance(images, ONE_IMAGE) or callable(getattr(images, "read", None)):
        return False, [images]
    if isinstance(images, np.ndarray | Tensor):
        return _split_array(images)
    if _has_order(images):
        return True, images
    raise InputError(
        "expected an image (a path, the bytes of a file, a file object, a PIL image, an array, a "
        f"tensor) or a list of them, not {describe_type(images)}"
    )


def require_pixels(pixels: Any) -> None:
    """Refuse what are no transformed pixels (N, 3, S, S).

    Raises:
        InputError: naming what takes images.
    """
    if not isinstance(pixels, Tensor) or pixels.ndim != SEVERAL:
        of = describe_type(pixels)
        shape = f"{of} {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else of
        raise InputError(
            f"expected a tensor of pixels (N, 3, S, S) that went through backbone.preprocess, not "
            f"{shape}: predict_proba and predict take images"
        )


def read_texts(texts: Any, name: str) -> list[str]:
    """Return one text, or several, as a list.

    Args:
        texts: a string, or strings in an order.
        name: what they are called in messages.

    Raises:
        InputError: when they are anything else.
    """
    if isinstance(texts, str):
        return [str(texts)]
    if not _has_order(texts):
        raise InputError(f"{name}: expected a text or a list of texts, not {describe_type(texts)}")
    found = list(texts)
    for place, text in enumerate(found):
        if not isinstance(text, str):
            raise InputError(f"{name}[{place}]: expected a text, not {describe_type(text)}")
    return [str(text) for text in found]


def read_names(classes: Any) -> list[str]:
    """Return names of classes as texts; numbers are names as they are written.

    Raises:
        InputError: when they are one string, in no order, or no names.
    """
    if isinstance(classes, str):
        raise InputError(
            f'classes={classes!r} is one text: expected a list of names such as ["cat", "dog"]'
        )
    if not _has_order(classes):
        raise InputError(
            f"classes: expected a list of names in an order, not {describe_type(classes)}"
        )
    names = []
    for place, name in enumerate(classes):
        value = name.item() if isinstance(name, np.generic) else name
        if not isinstance(value, str | int | float) or value != value:  # NaN is a missing name
            raise InputError(f"classes[{place}]: expected a name, not {_describe_name(value)}")
        names.append(str(value))
    return names


def read_count(top_k: Any, classes: int) -> int:
    """Return how many classes are wanted; None stands for all.

    Raises:
        InputError: when it is not a whole number, or below 1.
    """
    if top_k is None:
        return max(1, classes)
    try:
        count = operator.index(top_k) if not isinstance(top_k, bool | np.bool_) else 0
    except TypeError:
        count = 0
    if count < 1:
        shown = top_k if isinstance(top_k, bool | int | float | np.generic) else repr(top_k)[:40]
        raise InputError(f"top_k={shown}: expected a whole number, at least 1, or None for all")
    return count


def _split_array(images: np.ndarray | Tensor) -> tuple[bool, Iterable[AnyImage]]:
    if isinstance(images, Tensor) or images.dtype.kind not in "OUS":
        return (True, images) if images.ndim == SEVERAL else (False, [images])
    if images.ndim > 1:
        raise InputError(f"an array of paths or images has one axis, not {images.ndim}")
    return (True, images.tolist()) if images.ndim else (False, [images.item()])


def _has_order(values: Any) -> bool:
    # A table (two axes) would give the names of its columns. The keys of a dict have an order.
    if isinstance(values, Mapping | set | frozenset | bytes | bytearray | memoryview):
        return False
    holds = isinstance(values, Iterable | Sequence)
    return holds and getattr(values, "ndim", 1) == 1


def _describe_name(value: object) -> str:
    return "nan" if isinstance(value, float) else describe_type(value)
