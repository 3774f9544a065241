"""An image that lies in memory becomes a file, so that all else works as it does for files.

A picture is written as PNG, which loses nothing, under the digest of its pixels; a file's bytes are
written as they are. What is a file already stays where it is.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from clip_adapt.data import decoding
from clip_adapt.data.formats.handed import read_bytes
from clip_adapt.errors import InputError
from clip_adapt.system.files import write_atomically
from clip_adapt.system.reading import make_path

SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"GIF8": ".gif",
            b"BM": ".bmp", b"II*\0": ".tif", b"MM\0*": ".tif"}  # fmt: skip


class PictureStore:
    """Writes pictures into a folder.

    Attributes:
        folder: where they go.
        count: how many files this one has named.
        size: bytes of these.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.count, self.size = folder, 0, 0
        self._times = Counter[str]()

    def place(self, image: Any, where: str) -> str:
        """Return the absolute path of a file that holds the image.

        Raises:
            InputError: when it is no image that can be used.
        """
        if isinstance(image, dict) and {"bytes", "path"} & image.keys():  # of a Hugging Face set
            image = image.get("path") if image.get("bytes") is None else image["bytes"]
        if isinstance(image, str | os.PathLike):
            return os.path.abspath(make_path(image))
        try:
            if not isinstance(image, Image.Image | np.ndarray | torch.Tensor):
                return self._keep(read_bytes(image))
            picture = decoding.decode(image)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        source = getattr(image, "filename", "")
        if source and _holds(source, picture):
            return os.path.abspath(source)
        return self._keep_picture(picture)

    def _keep_picture(self, picture: Image.Image) -> str:
        head = f"{picture.mode} {picture.size}".encode()
        digest = hashlib.sha256(head + picture.tobytes()).hexdigest()
        path = self._name(digest, ".png")
        if not path.is_file():
            buffer = io.BytesIO()
            picture.save(buffer, format="PNG", compress_level=1)
            _write(path, buffer.getvalue())
        return self._count(path)

    def _keep(self, content: bytes) -> str:
        suffix = next((s for magic, s in SUFFIXES.items() if content.startswith(magic)), ".png")
        path = self._name(hashlib.sha256(content).hexdigest(), suffix)
        if not path.is_file():
            _write(path, content)
        return self._count(path)

    def _name(self, digest: str, suffix: str) -> Path:
        # A picture that is given twice is two files, as it is in a folder.
        self._times[digest] += 1
        again = f"-{self._times[digest]}" if self._times[digest] > 1 else ""
        return self.folder / digest[:2] / f"{digest[:40]}{again}{suffix}"

    def _count(self, path: Path) -> str:
        self.count += 1
        self.size += path.stat().st_size
        return str(path.absolute())


def _holds(path: Any, picture: Image.Image) -> bool:
    # Whether the file that Pillow has opened is still what was made of it here.
    if not isinstance(path, str | os.PathLike) or not os.path.isfile(path):
        return False
    there = decoding.try_decode(path)
    if not isinstance(there, Image.Image) or there.size != picture.size:
        return False
    return there.mode == picture.mode and there.tobytes() == picture.tobytes()


def _write(path: Path, content: bytes) -> None:
    with write_atomically(path) as temporary:
        temporary.write_bytes(content)
