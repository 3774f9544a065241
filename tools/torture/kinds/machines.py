"""Disks that are full or read-only, file systems without flock, chmod or fsync, caches of others.

After each a plain run follows on the same folders: nothing may be spoilt for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from clip_adapt import cli
from tools.torture.judging import Call, Wrong
from tools.torture.kind import Kind
from tools.torture.runs import Plain, prepare_run, require_same

MISSING = ("EOPNOTSUPP", "ENOSYS", "EPERM", "EINVAL")
FAULTS = ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EIO", "EFBIG", "EMFILE", "ESTALE")
CALLS = ("os.replace", "os.fsync", "os.open", "os.mkdir", "os.rename", "os.utime",
         "os.unlink", "tempfile.mkstemp", "pathlib.Path.write_text")  # fmt: skip
NEW_NAMESPACE, PRIVATE, BIND, REMOUNT, READ_ONLY = 0x20000, 1 << 18 | 1 << 14, 4096, 32, 1


def prepare(folder: Path) -> Plain:
    """Train once, as nothing disturbs it."""
    return prepare_run(folder, "method=linear_probe")


def attack(random: Random, plain: Plain, place: Path) -> Call:
    """Run on a machine of that kind, then on a sound one."""
    filled = random.random() < 0.4
    disturb = random.choice((_limit_size, _lack, _lack, _fail_once, _fail_once, _be_nobody, _mount))

    def call() -> int:
        if filled:
            cli.run(plain.words[0], [*plain.words[1:-2], "output=first", *plain.words[-2:]])
        with disturb(random, place):
            code = cli.run(plain.words[0], plain.words[1:])
            if code == 0:
                require_same(plain, place / "out")
        if code == cli.REFUSED and (place / "out").exists():
            raise Wrong("a refused run left its folder")
        with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
            again = cli.run(plain.words[0], plain.words[1:])
        if again:
            raise Wrong("the run that follows is refused")
        require_same(plain, place / "out")
        return 0

    return call


def _limit_size(random: Random, place: Path) -> AbstractContextManager[Any]:
    return _limited(random.choice((0, 100, 4096, 20_000, 100_000)))


@contextlib.contextmanager
def _limited(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _lack(random: Random, place: Path) -> AbstractContextManager[Any]:
    # A file system that has no such call at all.
    name = random.choice(("fcntl.flock", "fcntl.flock", "os.chmod", "os.fsync", "os.utime"))
    codes = (*MISSING, "ENOLCK", "ENOLCK") if name == "fcntl.flock" else MISSING
    number = getattr(errno, random.choice(codes))

    def refuse(*args: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    assert fcntl, "imported for its name"
    return mock.patch(name, refuse)


def _fail_once(random: Random, place: Path) -> AbstractContextManager[Any]:
    # The n-th call that concerns this folder fails, as it does when a disk fills meanwhile.
    number, name = getattr(errno, random.choice(FAULTS)), random.choice(CALLS)
    left = [random.randrange(12)]
    module, _, rest = name.partition(".")
    real: Callable[..., Any] = getattr(__import__(module), rest.split(".")[0])
    real = getattr(real, rest.split(".")[1]) if "." in rest else real

    def fail(*args: Any, **options: Any) -> Any:
        told = " ".join(map(str, (*args, *options.values())))
        if str(place) in told or name in ("os.fsync", "os.close"):
            left[0] -= 1
            if left[0] == -1:
                raise OSError(number, os.strerror(number))
        return real(*args, **options)

    return mock.patch(name, fail)


@contextlib.contextmanager
def _be_nobody(random: Random, place: Path) -> Iterator[None]:
    # Another user's cache, or a place without permission to write; root alone can change its name.
    if os.geteuid() != 0:
        yield
        return
    os.chmod(place, random.choice((0o755, 0o777)))
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@contextlib.contextmanager
def _mount(random: Random, place: Path) -> Iterator[None]:
    # In a name space of this worker's own: a tiny disk or a read-only one, where that is allowed.
    which = place / random.choice(("cache", "out", "."))
    which.mkdir(exist_ok=True)
    tiny = random.random() < 0.5 and which.name != place.name
    mounted = _try_mount(which, random.choice(("4k", "16k", "64k", "256k")) if tiny else None)
    try:
        yield
    finally:
        if mounted:
            _libc().umount2(bytes(which), 2)
        with contextlib.suppress(OSError):
            (place / "out").rmdir()


def _try_mount(which: Path, size: str | None) -> bool:
    libc, at = _libc(), bytes(which)
    if libc.unshare(NEW_NAMESPACE) or libc.mount(b"none", b"/", None, PRIVATE, None):
        return False
    if size is not None:
        return not libc.mount(b"tmpfs", at, b"tmpfs", 0, f"size={size}".encode())
    if libc.mount(at, at, None, BIND, None):
        return False
    return not libc.mount(at, at, None, BIND | REMOUNT | READ_ONLY, None)


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


DISKS = Kind("disks", prepare, attack)
