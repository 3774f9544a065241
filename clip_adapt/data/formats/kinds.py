"""Which files are images: by suffix where a folder is listed, by content where one is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import IO

from PIL import Image, features

from clip_adapt.data.formats import dicom, heif
from clip_adapt.data.formats.limits import Unusable

# What a photograph or a scan comes in, whatever the file is called. Pillow knows thirty more kinds;
# one of them (EPS) starts another program, and most are read by code that nobody looks after.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "AVIF", "PPM")
ALWAYS = frozenset(
    {".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif",
     ".jp2", ".j2k", ".jpx", ".avif", ".ppm", ".pgm"}
)  # fmt: skip
HEAD = 132  # bytes in which every kind can be told


@dataclass(frozen=True)
class Extra:
    """A kind that a package reads which need not be installed.

    Attributes:
        name: of the extra of clip-adapt.
        module: what it brings.
        kind: what such a file is called.
        suffixes: of such files.
        recognises: whether a file's first bytes are those of such a file.
        open: reads one; called where the module is installed.
    """

    name: str
    module: str
    kind: str
    suffixes: frozenset[str]
    recognises: Callable[[bytes], bool]
    open: Callable[[IO[bytes]], Image.Image]

    def is_installed(self) -> bool:
        """Return whether such files can be read here."""
        return find_spec(self.module) is not None

    def explain(self) -> str:
        """Return what to do about a file that cannot be read for want of the extra."""
        return f"pip install 'clip-adapt[{self.name}]' reads this kind"


EXTRAS = (
    Extra("heic", "pillow_heif", "HEIC", frozenset({".heic", ".heif"}), heif.recognises, heif.read),
    Extra("dicom", "pydicom", "DICOM", frozenset({".dcm"}), dicom.recognises, dicom.read),
)
# Suffixes of what can be read here, in lower case.
SUFFIXES = ALWAYS.union(*(extra.suffixes for extra in EXTRAS if extra.is_installed()))

# What Pillow reads only where it was built with the library.
BUILT_IN: tuple[tuple[str, str, Callable[[bytes], bool]], ...] = (
    ("AVIF", "avif", lambda head: heif.read_brands(head) & {b"avif", b"avis"} != set()),
    ("WebP", "webp", lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP"),
    ("JPEG 2000", "jpg_2000", lambda head: head[4:8] == b"jP  " or head[:4] == b"\xff\x4f\xff\x51"),
)


def explain_suffix(suffix: str) -> str | None:
    """Return what would read files of a suffix that is not among ``SUFFIXES``; None if nothing."""
    found = (extra for extra in EXTRAS if suffix.lower() in extra.suffixes)
    return next((extra.explain() for extra in found if not extra.is_installed()), None)


def open_image(file: IO[bytes]) -> Image.Image:
    """Open an image by its content, whatever its name: the only door to readers of images.

    Raises:
        Unusable: when it is an image that cannot be read here; says what is missing.
        PIL.UnidentifiedImageError: when it is anything else.
        OSError: when the file cannot be read.
    """
    head = file.read(HEAD)
    file.seek(0)
    for extra in EXTRAS:
        if extra.recognises(head):
            if not extra.is_installed():
                raise Unusable(f"a {extra.kind} file: {extra.explain()}")
            return extra.open(file)
    for name, feature, recognises in BUILT_IN:
        if recognises(head) and not features.check(feature):
            raise Unusable(f"this Pillow was built without {name}: pip install -U pillow")
    return Image.open(file, formats=FORMATS)  # noqa: TID251 - the one place
