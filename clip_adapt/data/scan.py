"""What is known of image files: digest, pixels, look, and whether they can be read at all.

A file is looked at once; what was seen is kept in the cache folder by path, size and time of
change, so that a folder of 100,000 images costs a few seconds the next time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from clip_adapt.data import decoding

log = logging.getLogger(__name__)

CHUNK = 512  # files between two writes; an interrupted scan goes on there
FILE = "images-1.sqlite"  # the number changes with the decoding and with what is kept
SHA, PIXELS, LOOK = slice(0, 32), slice(32, 48), slice(48, 56)


@dataclass(frozen=True)
class Survey:
    """What a scan found, 56 bytes an image besides the paths.

    Attributes:
        paths: the files, each once.
        sha256: (N, 32) uint8, the digest of the file's bytes; zeros where a file is broken.
        pixels: (N, 16) uint8, a digest of the decoded pixels; zeros where a file is broken.
        looks: (N,) uint64, the perceptual hash (pHash); 0 where a file is broken.
        broken: why a file cannot be read, by path.
    """

    paths: list[str]
    sha256: np.ndarray
    pixels: np.ndarray
    looks: np.ndarray
    broken: dict[str, str] = field(default_factory=dict)


def survey_images(paths: Sequence[str], folder: Path | None = None) -> Survey:
    """Decode every file that is not known yet.

    Args:
        paths: image files; the same path twice counts once.
        folder: the cache folder; None remembers nothing.
    """
    unique = list(dict.fromkeys(paths))
    sha256 = np.zeros((len(unique), 32), dtype=np.uint8)
    pixels = np.zeros((len(unique), 16), dtype=np.uint8)
    looks = np.zeros(len(unique), dtype=np.uint64)
    broken: dict[str, str] = {}
    for row, facts in enumerate(_gather(unique, folder, _examine, "checking images", 56)):
        if isinstance(facts, str):
            broken[unique[row]] = facts
        else:
            sha256[row] = np.frombuffer(facts[SHA], dtype=np.uint8)
            pixels[row] = np.frombuffer(facts[PIXELS], dtype=np.uint8)
            looks[row] = int.from_bytes(facts[LOOK], "big")
    return Survey(unique, sha256, pixels, looks, broken)


def hash_images(paths: Sequence[str], folder: Path | None = None) -> list[str]:
    """Return the SHA-256 of every file's bytes as 64 hexadecimal digits, in the order given.

    Raises:
        OSError: when a file cannot be opened.
    """
    hashed = _gather(paths, folder, _hash_file, "hashing images", 32)
    return [facts[SHA].hex() for facts in hashed if isinstance(facts, bytes)]


def list_digests(paths: Iterable[str], folder: Path | None = None) -> list[dict[str, str]]:
    """Return a row (path, sha256) for every file, each once; one that is gone has none."""
    there = [path for path in dict.fromkeys(paths) if os.path.isfile(path)]
    digests = hash_images(there, folder)
    return [{"path": p, "sha256": digest} for p, digest in zip(there, digests, strict=True)]


def _gather(
    paths: Sequence[str],
    folder: Path | None,
    work: Callable[[str], bytes | str],
    label: str,
    length: int,
) -> Iterator[bytes | str]:
    # Yields what is known of each path, in order; `length` says how much of it is wanted.
    bar = tqdm(total=len(paths), desc=label, unit="img", disable=None, delay=1)
    with Memory(folder) as memory, bar, decoding.open_decoders() as pool:
        for start in range(0, len(paths), CHUNK):
            part = paths[start : start + CHUNK]
            stamps = {path: _read_stamp(path) for path in part}
            known = memory.read(stamps, length)
            todo = [path for path in stamps if path not in known]
            fresh = dict(zip(todo, pool.map(work, todo), strict=True))
            memory.keep((path, stamps[path], facts) for path, facts in fresh.items())
            yield from ((known | fresh)[path] for path in part)
            bar.update(len(part))


def _examine(path: str) -> bytes | str:
    import imagehash

    image = decoding.try_decode(path)
    if isinstance(image, str):
        return image
    pixels = hashlib.blake2b(digest_size=16, person=b"%dx%d" % image.size)
    pixels.update(np.asarray(image).data)
    look = np.packbits(imagehash.phash(image).hash)
    return _hash_file(path) + pixels.digest() + look.tobytes()


def _hash_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _read_stamp(path: str) -> tuple[int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


class Memory:
    """The file that remembers: path, size, time of change, and what was seen.

    A memory that cannot be read or written costs time and nothing else.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._open: sqlite3.Connection | None = None

    def __enter__(self) -> Memory:
        if self._folder is not None:
            with self._or_forget():
                self._folder.mkdir(parents=True, exist_ok=True)
                self._open = sqlite3.connect(self._folder / FILE, timeout=30)
                self._open.execute(
                    "CREATE TABLE IF NOT EXISTS seen "
                    "(path TEXT PRIMARY KEY, size INT, changed INT, facts BLOB) WITHOUT ROWID"
                )
        return self

    def __exit__(self, *error: object) -> None:
        if self._open is not None:
            self._open.close()

    def read(
        self, stamps: dict[str, tuple[int, int] | None], length: int
    ) -> dict[str, bytes | str]:
        """Return what is known of unchanged files, at least ``length`` bytes of it."""
        found: dict[str, bytes | str] = {}
        with self._or_forget():
            if self._open is None:
                return {}
            marks = ",".join("?" * len(stamps))
            rows = self._open.execute(f"SELECT * FROM seen WHERE path IN ({marks})", [*stamps])
            for path, size, changed, facts in rows:
                if stamps[path] == (size, changed) and len(facts) >= length:
                    found[path] = facts
        return found

    def keep(self, rows: Iterator[tuple[str, tuple[int, int] | None, bytes | str]]) -> None:
        """Remember what was seen of good files; broken ones are looked at again."""
        good = [(p, *stamp, facts) for p, stamp, facts in rows if stamp and type(facts) is bytes]
        with self._or_forget():
            if self._open is not None and good:
                with self._open:
                    self._open.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)", good)

    @contextlib.contextmanager
    def _or_forget(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeEncodeError) as error:
            log.warning("what is known of the images is not kept for the next run: %s", error)
            self._open = None
