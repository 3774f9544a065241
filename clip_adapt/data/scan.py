"""What is known of image files: digest, pixels, look, and whether they can be read at all.

A file is looked at once; what was seen is remembered in the cache folder while the file stays as it
is (image_memory.py), so that a folder of 100,000 images costs a few seconds the next time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clip_adapt.data import decoding
from clip_adapt.data.image_memory import Memory
from clip_adapt.system.files import hash_file
from clip_adapt.system.launch import processes
from clip_adapt.system.quiet import ignore_warnings
from clip_adapt.system.stamps import Stamp, read_stamp
from clip_adapt.system.text.progress import make_bar

CHUNK = 512  # files between two writes; an interrupted scan goes on there
SHA, PIXELS, LOOK, BITS, SEVERAL = slice(0, 32), slice(32, 48), slice(48, 56), 56, 57
SIZE, SIDES = slice(58, 66), np.dtype(">u4")
LENGTH = 66  # bytes of what is known of an image


@dataclass(frozen=True)
class Survey:
    """What a scan found, 66 bytes an image besides the paths.

    Attributes:
        paths: the files, each once.
        sha256: (N, 32) uint8, the digest of the file's bytes; zeros where a file is broken.
        pixels: (N, 16) uint8, a digest of the decoded pixels; zeros where a file is broken.
        looks: (N,) uint64, the perceptual hash (pHash); 0 where a file is broken.
        bits: (N,) uint8, how many of its 16 bits a file uses; 0 where it has no 16, or uses all.
        several: (N,) bool, whether a file holds more frames or pages than the one that is read.
        sizes: (N, 2) uint32, width and height in pixels, upright; 0 where a file is broken.
        broken: why a file cannot be read, by path.
    """

    paths: list[str]
    sha256: np.ndarray
    pixels: np.ndarray
    looks: np.ndarray
    bits: np.ndarray
    several: np.ndarray
    sizes: np.ndarray
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
    bits = np.zeros(len(unique), dtype=np.uint8)
    several = np.zeros(len(unique), dtype=bool)
    sizes = np.zeros((len(unique), 2), dtype=np.uint32)
    broken: dict[str, str] = {}
    for row, facts in enumerate(_gather(unique, folder, _examine, "checking images", LENGTH)):
        if isinstance(facts, str):
            broken[unique[row]] = facts
        else:
            sha256[row] = np.frombuffer(facts[SHA], dtype=np.uint8)
            pixels[row] = np.frombuffer(facts[PIXELS], dtype=np.uint8)
            looks[row] = int.from_bytes(facts[LOOK], "big")
            bits[row], several[row] = facts[BITS], facts[SEVERAL]
            sizes[row] = np.frombuffer(facts[SIZE], dtype=SIDES)
    return Survey(unique, sha256, pixels, looks, bits, several, sizes, broken)


def describe_depths(survey: Survey) -> list[str]:
    """Return what a user should know of files that are read in another way than one may think."""
    counts = Counter(int(bits) for bits in survey.bits if bits)
    listed = ", ".join(f"{count} of {bits}" for bits, count in sorted(counts.items()))
    notes = []
    if counts:
        notes.append(
            f"{sum(counts.values())} files of 16 bits use fewer and are scaled by what they use, "
            f"each by its own highest value: {listed} bits"
        )
    if several := int(survey.several.sum()):
        notes.append(f"{several} files hold several frames or pages: the first is read")
    return notes


def hash_images(paths: Sequence[str], folder: Path | None = None) -> list[str]:
    """Return the SHA-256 of every file's bytes as 64 hexadecimal digits, in the order given.

    Raises:
        InputError: listing the files that cannot be opened.
    """
    hashed = list(_gather(paths, folder, _hash_openable, "hashing images", 32))
    closed = {p: facts for p, facts in zip(paths, hashed, strict=True) if isinstance(facts, str)}
    decoding.refuse_broken(closed)
    return [facts[SHA].hex() for facts in hashed if isinstance(facts, bytes)]


def hash_openable(paths: Sequence[str], folder: Path | None = None) -> list[str | None]:
    """Return what ``hash_images`` gives, None for a file that cannot be opened."""
    hashed = _gather(paths, folder, _hash_openable, "hashing images", 32)
    return [facts[SHA].hex() if isinstance(facts, bytes) else None for facts in hashed]


def find_changed(survey: Survey, paths: Sequence[str], folder: Path | None = None) -> list[str]:
    """Return the files whose bytes are not, or no more, those that a survey saw.

    If there are any, all that is remembered of the survey's files is forgotten: where these could
    change unseen, the others could, too.

    Args:
        survey: what was seen.
        paths: the files to read; what the survey does not know is left out.
        folder: the cache folder.
    """
    row = {path: index for index, path in enumerate(survey.paths) if path not in survey.broken}
    seen = {path: survey.sha256[row[path]].tobytes().hex() for path in paths if path in row}
    changed = [path for path, digest in seen.items() if _try_hash(path) != digest]
    forget(survey.paths if changed else [], folder)
    return changed


def forget(paths: Sequence[str], folder: Path | None) -> None:
    """Forget what is remembered of files, so that they are looked at again."""
    with Memory(folder) as memory:
        memory.forget(paths)


def _try_hash(path: str) -> str | None:
    with contextlib.suppress(OSError):
        return hash_file(path)
    return None


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
    bar = make_bar(len(paths), label, delay=1)
    with Memory(folder) as memory, bar, decoding.open_decoders() as pool:
        for start in range(0, len(paths), CHUNK):
            part = paths[start : start + CHUNK]
            stamps = {path: _read_stamp(path) for path in part}
            known = processes.broadcast(memory.read(stamps, length))
            todo = [path for path in stamps if path not in known]
            if todo and work is _examine:
                import_hashing()
            found = processes.share_work(lambda paths: list(pool.map(work, paths)), todo)
            fresh = dict(zip(todo, found, strict=True))
            if processes.is_main():
                memory.keep((path, stamps[path], facts) for path, facts in fresh.items())
            yield from ((known | fresh)[path] for path in part)
            bar.update(len(part))


def import_hashing() -> None:
    """Import what a perceptual hash takes, in this thread, with Python's warning filters kept.

    scipy adds filters when it is imported; from a worker they would stay in the user's program.
    """
    with ignore_warnings():
        import imagehash  # noqa: F401
        import scipy.fftpack  # noqa: F401


def _examine(path: str) -> bytes | str:
    import imagehash

    seen = decoding.try_examine(path)
    if isinstance(seen, str):
        return seen
    image = seen.image
    pixels = hashlib.blake2b(digest_size=16, person=b"%dx%d" % image.size)
    pixels.update(np.asarray(image).data)
    look = np.packbits(imagehash.phash(image).hash)
    more = bytes([seen.bits, seen.several]) + np.array(image.size, dtype=SIDES).tobytes()
    return _hash_file(path) + pixels.digest() + look.tobytes() + more


def _hash_openable(path: str) -> bytes | str:
    try:
        return _hash_file(path)
    except OSError as error:
        return error.strerror or str(error)


def _hash_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _read_stamp(path: str) -> Stamp | None:
    try:
        return read_stamp(path)
    except OSError:
        return None
