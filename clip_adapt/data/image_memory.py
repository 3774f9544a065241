"""What is remembered of image files between runs: a small database in the cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from clip_adapt.system.stamps import Stamp, is_settled

log = logging.getLogger(__name__)

FILE = "images-3.sqlite"  # the number changes with the decoding and with what is kept
DAMAGED = ("malformed", "not a database", "decode")  # what SQLite then says
SHA = slice(0, 32)  # of the facts: the digest of the file's bytes


class Memory:
    """The file that remembers: path, what was seen, and a digest over both and the stamp.

    A memory that cannot be read or written costs time and nothing else.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._open: sqlite3.Connection | None = None
        self._asked = 0

    def __enter__(self) -> Memory:
        if self._folder is not None:
            with self._or_forget():
                self._folder.mkdir(parents=True, exist_ok=True)
                self._open = sqlite3.connect(self._folder / FILE, timeout=30)
                self._open.execute(
                    "CREATE TABLE IF NOT EXISTS seen (path TEXT PRIMARY KEY, asked INT, "
                    "facts BLOB, digest BLOB) WITHOUT ROWID"
                )
        return self

    def __exit__(self, *error: object) -> None:
        if self._open is not None:
            self._open.close()

    def read(self, stamps: Mapping[str, Stamp | None], length: int) -> dict[str, bytes | str]:
        """Return what is known of unchanged files, at least ``length`` bytes of it.

        Args:
            stamps: of the files, as they are before anything of them is read.
            length: how much is wanted.
        """
        found: dict[str, bytes | str] = {}
        settled: list[tuple[str, Stamp | None, bytes | str]] = []
        self._asked = time.time_ns()
        with self._or_forget():
            if self._open is None:
                return {}
            marks = ",".join("?" * len(stamps))
            rows = self._open.execute(
                f"SELECT path, asked, facts, digest FROM seen WHERE path IN ({marks})", [*stamps]
            )
            for path, asked, facts, digest in rows:
                now = stamps[path]
                if now is None or digest != _digest_row(path, now, asked, facts):
                    continue  # changed, or the row is damaged
                if len(facts) < length:
                    continue
                if is_settled(now, asked):
                    found[path] = facts
                elif _has_digest(path, facts[SHA]):
                    found[path] = facts
                    settled.append((path, now, facts))
        self.keep(settled)
        return found

    def keep(self, rows: Iterable[tuple[str, Stamp | None, bytes | str]]) -> None:
        """Remember what was seen of good files after ``read``; broken ones are looked at again."""
        good = [
            (path, self._asked, facts, _digest_row(path, stamp, self._asked, facts))
            for path, stamp, facts in rows
            if stamp and isinstance(facts, bytes)
        ]
        with self._or_forget():
            if self._open is not None and good:
                with self._open:
                    self._open.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)", good)

    def forget(self, paths: Sequence[str]) -> None:
        """Forget what was seen of files."""
        with self._or_forget():
            if self._open is not None and paths:
                with self._open:
                    self._open.executemany("DELETE FROM seen WHERE path = ?", [(p,) for p in paths])

    @contextlib.contextmanager
    def _or_forget(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeEncodeError) as error:
            log.warning("what is known of the images is not kept for the next run: %s", error)
            self._open = None
            if self._folder is not None and any(word in str(error) for word in DAMAGED):
                with contextlib.suppress(OSError):
                    (self._folder / FILE).unlink()


def _digest_row(path: str, stamp: Stamp, asked: object, facts: object) -> bytes:
    # repr, because a damaged row may hold anything, and a path no text that SQLite keeps.
    return hashlib.blake2b(repr((path, stamp, asked, facts)).encode(), digest_size=8).digest()


def _has_digest(path: str, expected: bytes) -> bool:
    # Changed shortly before it was looked at: it may have changed since with the same stamp.
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest() == expected
    return False
