"""File systems without locks, permissions or sync, files that may not be read, disks that fail."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from pathlib import Path

import pytest

from clip_adapt.data import decoding, leaks, scan
from clip_adapt.data.items import Item
from clip_adapt.errors import InputError
from clip_adapt.system import files, locks


def fail(code):
    def refuse(*args, **options):
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.parametrize("code", locks.WITHOUT_LOCKS)
def test_a_run_goes_on_where_there_are_no_locks(tmp_path, monkeypatch, caplog, code):
    monkeypatch.setattr(fcntl, "flock", fail(code))
    with locks.hold_lock(tmp_path / "out" / locks.NAME, "the output folder out"):
        (tmp_path / "out" / "file").write_text("mine")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["file"]
    assert "the output folder out lies on a file system without locks" in caplog.text


@pytest.mark.parametrize("code", [errno.EIO, errno.EPERM])
def test_a_lock_that_fails_for_another_reason_is_refused(tmp_path, monkeypatch, code):
    monkeypatch.setattr(fcntl, "flock", fail(code))
    with (
        pytest.raises(InputError, match=r"the disk reports an error|permission is denied"),
        locks.hold_lock(tmp_path / ".lock", "it"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_holds_on_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "write_text", fail(errno.ENOSPC))
    with (
        locks.hold_lock(tmp_path / ".lock", "it"),
        pytest.raises(locks.BusyError),
        locks.hold_lock(tmp_path / ".lock", "it"),
    ):
        pass
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("name", ["chmod", "fsync"])
@pytest.mark.parametrize("code", files.UNKNOWN)
def test_a_file_system_without_permissions_or_sync(tmp_path, monkeypatch, name, code):
    monkeypatch.setattr(files.os, name, fail(code))
    files.write_text(tmp_path / "a.txt", "whole")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "whole")]


@pytest.mark.parametrize("name", ["chmod", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.ESTALE, errno.EDQUOT])
def test_a_disk_that_fails_leaves_nothing(tmp_path, monkeypatch, name, code):
    monkeypatch.setattr(files.os, name, fail(code))
    with pytest.raises(InputError, match=f"cannot write into {tmp_path}: "):
        files.write_text(tmp_path / "a.txt", "whole")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_taken_away_does_not_hide_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "replace", fail(errno.ENOSPC))
    monkeypatch.setattr(Path, "unlink", fail(errno.EIO))
    with pytest.raises(InputError, match="the disk is full"):
        files.write_text(tmp_path / "a.txt", "whole")


@pytest.fixture
def closed(monkeypatch, tmp_path, make_folder):
    """A folder of class folders in which one picture may not be read, whoever asks."""
    root = make_folder(tmp_path / "own", splits=(), per_class=6)
    path = str(root / "cat" / "3.png")
    real = open

    def refuse(file, *args, **options):
        if isinstance(file, str | os.PathLike) and os.fspath(file) == path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(file, *args, **options)

    monkeypatch.setattr("builtins.open", refuse)
    return root, path


def test_a_picture_that_may_not_be_read(train_tiny, closed, tmp_path):
    root, path = closed
    code, _, err = train_tiny(root, "method=zero_shot", "shots=1")
    assert code == 2
    assert err.startswith(f"error: 1 images cannot be read:\n  {path}: permission to read it is ")
    code, out, err = train_tiny(root, "method=zero_shot", "shots=1", "on_bad_image=skip")
    assert code == 0, err
    assert "1 images cannot be read and are left out" in out
    assert path not in (tmp_path / "out" / "predictions.csv").read_text()


def test_digests_of_pictures_that_may_not_be_read(closed):
    root, path = closed
    other = str(root / "cat" / "2.png")
    known = scan.hash_images([other])
    assert scan.hash_openable([other, path]) == [*known, None]
    with pytest.raises(InputError, match="Permission denied"):
        scan.hash_images([other, path])
    assert decoding.find_broken([other, path]) == {path: "permission to read it is denied"}
    os.replace(shutil.copy(other, f"{path}.new"), path)  # only files of one size are compared
    parts = {"train": [Item(other, 0)], "test": [Item(path, 0)]}
    assert leaks.find_same_files(parts) == []


def test_a_folder_that_may_not_be_looked_into(run_cli, make_folder, tmp_path, monkeypatch):
    make_folder(tmp_path / "own", splits=(), per_class=3)
    monkeypatch.setattr(Path, "iterdir", fail(errno.EACCES))
    with contextlib.suppress(KeyError):
        code, _, err = run_cli("train", "dataset=own", "method=zero_shot")
    assert code == 2
    assert err.endswith(f"the folder {tmp_path / 'own'} cannot be read: Permission denied\n")
