"""Temporary files and folders say whose they are, so that those of killed processes can be swept.

A cache and a folder of runs are shared by processes, users and machines. What a living process is
making stays; of another machine's processes nobody here can tell, so theirs go by their age.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

STALE = 2 * 24 * 3600  # seconds without a change, of another machine's
_OURS = re.compile(r"\.clip_adapt-(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>\d+)-")
# What versions before this one left, which did not say whose it is.
_OLD = re.compile(
    r"\.(adapter\.safetensors|[0-9a-f]{24}\.safetensors|[\w.-]+-[0-9a-f]{16})\.[a-z0-9_]{8}"
)


def make_prefix() -> str:
    """Return what the names of this process's temporary files and folders begin with."""
    pid = os.getpid()
    return f".clip_adapt-{_name_machine()}-{pid}-{_read_start(pid) or 0}-"


def sweep(folder: Path) -> None:
    """Take away what killed processes left in a folder, as far as that is allowed."""
    for entry in _list_entries(folder):
        if _is_left(entry):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


@functools.cache
def sweep_once(folder: Path) -> None:
    """Sweep a folder the first time that this process comes to it."""
    sweep(folder)


@functools.cache
def sweep_cache(folder: Path) -> None:
    """Sweep a cache folder the first time: its top, the folders in it, and all of the features."""
    places = [folder, *(Path(e.path) for e in _list_entries(folder) if e.is_dir())]
    for place in places:
        sweep(place)
    for parent, _, _ in os.walk(folder / "features"):
        sweep(Path(parent))


def _list_entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        yield from list(entries)


def _is_left(entry: os.DirEntry[str]) -> bool:
    ours = _OURS.match(entry.name)
    if ours and ours["machine"] == _name_machine():
        return not _is_alive(int(ours["pid"]), int(ours["start"]))
    if not ours and not _OLD.fullmatch(entry.name):
        return False
    try:
        return entry.stat(follow_symlinks=False).st_mtime < time.time() - STALE
    except OSError:
        return False


def _is_alive(pid: int, start: int) -> bool:
    import psutil

    if not psutil.pid_exists(pid):
        return False
    with contextlib.suppress(psutil.Error):
        if psutil.Process(pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return False
    found = _read_start(pid)
    return found is None or found == start  # or its number was given to another


def _read_start(pid: int) -> int | None:
    # When a process has started, in ticks since the machine did: the clock may be set meanwhile.
    import psutil

    try:
        if sys.platform == "linux":
            return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        return int(psutil.Process(pid).create_time())
    except (OSError, ValueError, IndexError, psutil.Error):
        return None


@functools.cache
def _name_machine() -> str:
    # Containers have their own process numbers, on one machine and under one name.
    parts = [socket.gethostname()]
    for read in (_read_boot, _read_namespace):
        with contextlib.suppress(OSError):
            parts.append(read())
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:8]


def _read_boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text()


def _read_namespace() -> str:
    return str(os.stat("/proc/self/ns/pid").st_ino)
