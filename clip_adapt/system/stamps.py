"""What tells an unchanged file from a changed one without reading it.

Size and time of change are not enough: archives, ``cp -p`` and ``rsync -t`` give other contents the
same. An exchanged file has another inode, and one that was written in place another ctime, which
nobody can set. A clock has ticks, so a file that was changed just before it was looked at may
change again with nothing to show for it.
"""

from __future__ import annotations

import os

TICK = 2_000_000_000  # nanoseconds: the coarsest clock of a file system in use, that of FAT

Stamp = tuple[int, int, int, int]  # size, mtime and ctime in nanoseconds, inode


def read_stamp(path: str | os.PathLike[str]) -> Stamp:
    """Return what changes when a file does.

    Raises:
        OSError: when there is no such file.
    """
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def is_settled(stamp: Stamp, seen: int) -> bool:
    """Tell whether a change after ``seen`` (nanoseconds since 1970) gives another stamp."""
    return seen > max(stamp[1:3]) + TICK
