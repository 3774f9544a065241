"""Writing files so that a reader never sees half of one, and finding our own."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from clip_adapt.errors import InputError
from clip_adapt.system.reading import make_path
from clip_adapt.system.stamps import Stamp, is_settled, read_stamp
from clip_adapt.system.temporaries import make_prefix, sweep_once

# What file systems answer that have no such call: SMB, exFAT and FUSE to chmod, others to fsync.
UNKNOWN = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM)
# And what some answer that cannot open or sync a folder.
UNKNOWN_OF_FOLDERS = (*UNKNOWN, errno.EBADF, errno.EACCES)


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` which takes its place when the block succeeds.

    Raises:
        InputError: when the disk is full or the folder cannot be written; nothing is left behind.
    """
    temporary: Path | None = None
    try:
        with refuse_unwritable(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep_once(path.parent.absolute())
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=make_prefix())
            os.close(handle)
            temporary = Path(name)
            yield temporary
            flush(temporary)
            _allow_reading(temporary)
            os.replace(temporary, path)
            flush(path.parent)
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):  # gone already, or swept at the next start
                temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) atomically."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


@contextlib.contextmanager
def build_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``folder`` which takes its place when the block succeeds.

    When another process has built the same folder meanwhile, that one stays.

    Raises:
        InputError: when the disk is full or the place cannot be written; nothing is left behind.
    """
    with refuse_unwritable(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep_once(folder.parent.absolute())
        building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=make_prefix()))
    try:
        with refuse_unwritable(folder.parent):
            yield building
            flush(building)
            building.rename(folder)
            flush(folder.parent)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


@contextlib.contextmanager
def refuse_unwritable(folder: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into a message with a remedy."""
    reasons: dict[int | None, str] = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "permission is denied",
        errno.EPERM: "permission is denied",
        errno.ENOTDIR: "a part of this path is a file",
        errno.EEXIST: "a part of this path is a file",
        errno.ENOENT: "a part of this path cannot be created",
        errno.EFBIG: "the file would be larger than is allowed here",
        errno.ENAMETOOLONG: "its name is too long for this file system",
        errno.EIO: "the disk reports an error",
        errno.ESTALE: "the network file system has lost it",
        errno.EMFILE: "too many files are open",
        errno.ENFILE: "too many files are open",
        errno.ELOOP: "its links lead in a circle",
        errno.ENODEV: "the device is gone",
        errno.ENXIO: "the device is gone",
        errno.EISDIR: "a folder is in the way of a file",
        errno.ENOTEMPTY: "a folder is in the way",
        errno.EBUSY: "it is in use",
    }
    try:
        yield
    except OSError as error:
        if error.errno not in reasons:
            raise
        raise InputError(
            f"cannot write into {folder}: {reasons[error.errno]}. Free some space or choose "
            "another place with output=DIR (results) or cache_dir=DIR (caches)."
        ) from error


def require_writable(folder: Path) -> None:
    """Create the folder and a file in it, and take the file away again.

    Raises:
        InputError: when that fails.
    """
    with refuse_unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:  # without a name: a kill leaves none
            probe.write(b"\0" * 4096)
            probe.flush()


def hash_file(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits; read once while unchanged.

    Raises:
        OSError: when it cannot be read.
    """
    stamp = read_stamp(path)
    read = _hash_unchanged if is_settled(stamp, time.time_ns()) else _hash_unchanged.__wrapped__
    return read(os.fspath(path), stamp)


@functools.lru_cache(maxsize=200_000)
def _hash_unchanged(path: str, stamp: Stamp) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def choose_cache_folder(cache_dir: str | None = None) -> Path:
    """Return where caches lie: ``cache_dir``, $CLIP_ADAPT_CACHE, or the platform's cache folder."""
    chosen = cache_dir or os.environ.get("CLIP_ADAPT_CACHE")
    return make_path(chosen) if chosen else Path(platformdirs.user_cache_dir("clip_adapt"))


def choose_data_folder(data_dir: str | None = None) -> Path:
    """Return where data sets of cards lie: ``data_dir``, $CLIP_ADAPT_DATA, or ``data`` here."""
    chosen = data_dir or os.environ.get("CLIP_ADAPT_DATA") or "data"
    return make_path(chosen).absolute()


def locate_resource(*parts: str) -> Path:
    """Return a file or folder of ours, in an installed package or in a checkout.

    ``configs`` and ``datasets`` lie inside the installed package and at the top of a checkout.
    """
    package = Path(__file__).parent.parent
    inside = package.joinpath(*parts)
    return inside if inside.exists() else package.parent.joinpath(*parts)


def flush(path: Path) -> None:
    """Have a file, or the entries of a folder, on the disk; a folder that is not there has none.

    Windows and some network file systems know nothing of the kind for folders. Of a file Windows
    syncs what is open for writing alone.
    """
    try:
        handle = _open_to_flush(path)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (UNKNOWN_OF_FOLDERS if path.is_dir() else UNKNOWN):
            raise


def _open_to_flush(path: Path) -> int:
    if not path.is_dir():
        with contextlib.suppress(PermissionError):  # one that may be read alone
            return os.open(path, os.O_RDWR)
    return os.open(path, os.O_RDONLY)


def _allow_reading(path: Path) -> None:
    # A temporary file is its owner's alone; file systems without permissions know no such thing.
    try:
        os.chmod(path, 0o666 & ~_read_umask())
    except OSError as error:
        if error.errno not in UNKNOWN:
            raise


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
