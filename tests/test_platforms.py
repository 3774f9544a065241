"""What Windows and macOS do otherwise, where it cannot be tried: the platform is simulated."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from clip_adapt.system import files, locks
from clip_adapt.system.text import names


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        *((name, "device") for name in ("CON", "nul", "Aux.txt", "com1", "LPT9.tar.gz", "COM¹")),
        *((name, "at the end") for name in ("skin.", "a ", "...")),
        *((name, "none of") for name in ("hf-hub:x", "a?", "<b>", 'say "x"', "a|b", "*")),
        ("x" * 81, "longer than 80"),
    ],
)
def test_names_that_windows_does_not_take(name, problem):
    assert names.find_name_problem(name, windows=False) is None
    assert problem in names.find_name_problem(name, windows=True)
    made = names.make_file_name(name, windows=True)
    assert names.find_name_problem(made, windows=True) is None
    assert made != names.make_file_name(f"{name}?", windows=True)
    assert names.make_file_name(name, windows=False) == name


def test_ordinary_names_are_taken_everywhere():
    for name in ("eyes", "photos [old]", "Café", "console", "nullable", "com10", "lr=0.1", ".x"):
        assert names.make_file_name(name, windows=True) == name


def act_like_windows(monkeypatch):
    """Let fsync take handles that can write alone, and open no folder."""
    opened, sync, open_file = [], os.fsync, os.open

    def fsync(handle):
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        opened.append(handle)
        sync(handle)

    def open_no_folder(path, flags, *more):
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_file(path, flags, *more)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "open", open_no_folder)
    return opened


def test_a_file_is_synced_through_a_handle_that_can_write(monkeypatch, tmp_path):
    opened = act_like_windows(monkeypatch)
    files.write_text(tmp_path / "a.txt", "text")
    files.flush(tmp_path)
    assert len(opened) == 1 and (tmp_path / "a.txt").read_text() == "text"


def test_a_file_that_may_be_read_alone_is_synced(monkeypatch, tmp_path):
    path, flags, open_file = tmp_path / "a.txt", [], os.open
    path.write_text("x")

    def open_to_read(path, mode, *more):
        flags.append(mode)
        if mode == os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_file(path, mode, *more)

    monkeypatch.setattr(os, "open", open_to_read)
    files.flush(path)
    assert flags == [os.O_RDWR, os.O_RDONLY]


def test_on_windows_the_holder_is_named_beside_the_lock(monkeypatch, tmp_path):
    path = tmp_path / ".lock"
    monkeypatch.setattr(locks, "WINDOWS", True)
    with locks.hold_lock(path, "it"):
        assert path.read_text() == ""
        assert f"process {os.getpid()}" in (tmp_path / ".lock-holder").read_text()
        busy = pytest.raises(locks.BusyError, match=f"in use by process {os.getpid()}")
        with busy, locks.hold_lock(path, "it"):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("windows", [False, True])
def test_a_lock_is_let_go_before_its_file_goes_on_windows_alone(tmp_path, windows):
    path, told = tmp_path / ".lock", []
    path.touch()
    steps = locks.list_last_steps(path, lambda: told.append(path.exists()), windows)
    locks.place_note(path, windows).touch()
    for step in steps:
        step()
    assert told == [windows] and list(tmp_path.iterdir()) == []
