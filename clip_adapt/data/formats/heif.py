"""HEIC and HEIF, the photographs of telephones, by pillow-heif (``clip-adapt[heic]``)."""

from __future__ import annotations

from typing import IO

from PIL import Image

from clip_adapt.data.formats.limits import refuse_absurd

# ISO/IEC 23008-12, annex B: HEVC images, alone and in sequences.
BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})


def read_brands(head: bytes) -> set[bytes]:
    """Return the brands that a file of the ISO base media format says it has; else none."""
    if head[4:8] != b"ftyp":
        return set()
    size = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[place : place + 4] for place in range(16, size - 3, 4))}


def recognises(head: bytes) -> bool:
    """Return whether a file that starts like this is HEIC."""
    return bool(read_brands(head) & BRANDS)


def read(file: IO[bytes]) -> Image.Image:
    """Read the primary image, turned as the file says, with 8 bits.

    Raises:
        Unusable: when its size is absurd.
        ValueError, EOFError, SyntaxError, RuntimeError, OSError: when it is damaged.
    """
    import pillow_heif

    # Opened without being registered: Pillow stays as it is for everybody else in the process.
    opened = pillow_heif.open_heif(file.read())
    refuse_absurd(*opened.size)
    image = opened.to_pillow()
    # The file's own turn has been made; EXIF may repeat it.
    image.info = {"several": len(opened) > 1}
    return image
