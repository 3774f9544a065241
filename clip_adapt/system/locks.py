"""One process at a time: a lock file that the operating system lets go when its holder dies."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from clip_adapt.errors import InputError
from clip_adapt.system.files import refuse_unwritable

NAME = ".lock"
WINDOWS = os.name == "nt"
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)

log = logging.getLogger(__name__)


class BusyError(InputError):
    """Another process holds the lock."""


@contextlib.contextmanager
def hold_lock(path: Path, what: str) -> Iterator[None]:
    """Hold a lock while the block runs; its file is taken away afterwards.

    The lock is the operating system's, on the open file: a process that is killed leaves the file
    but not the lock, so nothing is ever stale.

    Args:
        path: the lock file; its folder is made.
        what: what is locked, for the message.

    Raises:
        BusyError: at once, when another process (or another thread of this one) holds it.
        InputError: when the file cannot be written.
    """
    with refuse_unwritable(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=0, fallback_to_soft=False)
        try:
            _acquire(lock, what)
        except Timeout:
            raise BusyError(
                f"{what} is in use by {_read_holder(path)}: wait until it ends, or choose another "
                "place with output=DIR"
            ) from None
    # It helps whoever waits; on a full disk the lock holds without it.
    with contextlib.suppress(OSError):
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        place_note(path, WINDOWS).write_text(holder, encoding="utf-8")
    try:
        yield
    finally:
        for step in list_last_steps(path, lock.release, WINDOWS):
            with contextlib.suppress(OSError):  # where there are no locks there is none to let go
                step()


def place_note(path: Path, windows: bool) -> Path:
    """Return the file that says who holds a lock: the lock's own, and on Windows one beside it.

    There a locked file can be read and written through the handle that holds it alone.
    """
    return path.with_name(f"{path.name}-holder") if windows else path


def list_last_steps(
    path: Path, release: Callable[[], None], windows: bool
) -> list[Callable[[], None]]:
    """Return what is done when a lock is let go, in order.

    Its file is taken away while it is still held: who opened it before finds it gone and starts
    over. Windows removes no open file, so there the lock goes first, and the file stays when
    somebody else holds it by then.
    """
    if not windows:
        return [path.unlink, release]
    return [place_note(path, windows).unlink, release, path.unlink]


def _acquire(lock: BaseFileLock, what: str) -> None:
    # Some network and FUSE file systems know no locks. A run goes on there: what is lost is only
    # that a second one into the same folder is noticed.
    path = Path(lock.lock_file)
    existed = path.exists()
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            if not existed:
                path.unlink(missing_ok=True)
            raise
        log.warning(
            "%s lies on a file system without locks (%s): see to it that no other run writes there",
            what,
            error.strerror,
        )


def _read_holder(path: Path) -> str:
    try:
        return place_note(path, WINDOWS).read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"
