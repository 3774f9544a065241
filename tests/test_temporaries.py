"""What killed processes leave: taken away at the next start, and nothing else is."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from clip_adapt.config.cards import DataCard
from clip_adapt.data.items import Context
from clip_adapt.data.sources import drawn
from clip_adapt.errors import InputError
from clip_adapt.inputs.feature_cache import FeatureCache
from clip_adapt.runs.shared import Shared
from clip_adapt.system import temporaries
from clip_adapt.system.files import build_folder, write_atomically
from clip_adapt.system.temporaries import make_prefix, sweep

# A process that dies while it writes a file and a folder; without the first line it goes on.
KILLED = """
import os, sys, time
from pathlib import Path
from clip_adapt.system.files import build_folder, write_atomically
place = Path(sys.argv[1])
with write_atomically(place / "a.safetensors") as file, build_folder(place / "eyes") as folder:
    file.write_text("half")
    (folder / "train").mkdir()
    (folder / "train" / "0.png").write_text("half")
    print("writing", flush=True)
    if len(sys.argv) > 2:
        time.sleep(60)
    os.kill(os.getpid(), 9)
"""


def start(*words):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, *map(str, words)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "writing\n"
    return process


def end(process):
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture(autouse=True)
def newly_started():
    """This process has swept nothing yet."""
    temporaries.sweep_once.cache_clear()
    temporaries.sweep_cache.cache_clear()


def test_what_a_living_process_writes_stays_and_a_killed_ones_goes(tmp_path):
    living, killed = start(tmp_path, "live"), start(tmp_path)
    time.sleep(0.1)
    theirs = sorted(p.name for p in tmp_path.iterdir())
    assert len(theirs) == 4
    sweep(tmp_path)  # the killed one is a zombie, which nobody has waited for
    (left,) = {name.split("-")[2] for name in (p.name for p in tmp_path.iterdir())}
    assert int(left) == living.pid
    end(living)
    sweep(tmp_path)
    assert not list(tmp_path.iterdir())
    end(killed)


@pytest.mark.parametrize("write", [write_atomically, build_folder])
def test_a_folder_is_swept_where_something_is_written_into_it(tmp_path, write):
    end(start(tmp_path))
    with write(tmp_path / "other"):
        (mine,) = tmp_path.iterdir()
        assert mine.name.startswith(make_prefix())
        sweep(tmp_path)
        assert mine.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


def name(machine=None, pid=None, begun=None):
    """Return a temporary name of this process, changed."""
    parts = make_prefix().split("-")
    for place, value in enumerate((machine, pid, begun), 1):
        parts[place] = str(value) if value is not None else parts[place]
    return "-".join(parts) + "x8k2j9ab"


def test_only_ours_and_only_what_nobody_writes_goes(tmp_path):
    old = ".adapter.safetensors.abcd1234"
    ours = {
        name(): False,
        name(begun=5): True,  # the number was given to another process
        name(pid=2**22 + 1): True,
        name(machine="0" * 8, pid=2**22 + 1): False,
        old: False,
    }
    foreign = ["notes.txt", ".hidden", ".clip_adapt", ".clip_adapt-mine", "adapter.safetensors"]
    foreign += [".a.json.abcd1234", ".clip_adapt-0123-4-5-x"]
    for each in (*ours, *foreign):
        (tmp_path / each).write_text("")
    sweep(tmp_path)
    kept = {p.name for p in tmp_path.iterdir()}
    assert kept == {*foreign, *(each for each, goes in ours.items() if not goes)}
    for each in kept:
        os.utime(tmp_path / each, (0, 0))
    sweep(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {*foreign, name()}


def test_what_may_not_be_taken_away_stays(tmp_path, monkeypatch):
    (tmp_path / name(begun=5)).write_text("")

    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr(os, "unlink", refuse)
    sweep(tmp_path)
    sweep(tmp_path / "nowhere")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cache_is_swept_at_the_start(tmp_path, train_tiny, animals, everything_in):
    places = [tmp_path / "c" / p for p in ("", "drawn", "features", "features/a/b/centre")]
    killed = start(tmp_path / "killed")
    end(killed)
    for place in places:
        shutil.copytree(tmp_path / "killed", place, dirs_exist_ok=True)
    assert train_tiny(animals, "cache_dir=c", "report=false")[0] == 0
    assert not [p for p in everything_in(tmp_path / "c") if ".clip_adapt-" in p]


def test_features_of_a_killed_run_without_cache_go(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / name(begun=5)).mkdir()
    with Shared(keep_features=True) as shared:
        shared._make_folder()
        (mine,) = tmp_path.iterdir()
        assert mine.name.startswith(make_prefix())
    assert not list(tmp_path.iterdir())


# Drawn pictures

CARD = DataCard("eyes", "drawn", classes={"cataract": "cataract", "pterygium": "pterygium"})
HOW = {"generator": "eyes", "size": 32, "per_class": {"train": 10, "test": 2}}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A cache folder with drawn pictures, and their bytes."""
    cache = tmp_path_factory.mktemp("pictures")
    paths = read(cache)
    return cache, {path: Path(path).read_bytes() for path in paths}


def read(cache):
    splits = drawn.read(CARD, Context(cache), **HOW)
    return [item.path for items in splits.parts().values() for item in items]


@pytest.fixture
def whole(pictures):
    cache, expected = pictures
    yield cache, expected
    assert all(Path(path).read_bytes() == data for path, data in expected.items())
    (folder,) = (cache / "drawn").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["sha256.txt", "test", "train"]


def list_file(cache):
    (file,) = cache.glob("drawn/*/sha256.txt")
    return file


def flip(path):
    data = bytearray(Path(path).read_bytes())
    data[len(data) // 2] ^= 8
    Path(path).write_bytes(data)


def test_damaged_and_missing_pictures_are_drawn_anew(whole, caplog):
    cache, expected = whole
    paths = list(expected)
    flip(paths[0])
    os.unlink(paths[13])
    Path(paths[9]).write_bytes(b"")
    with caplog.at_level(logging.WARNING, "clip_adapt"):
        assert read(cache) == paths
        assert read(cache) == paths
    assert len(caplog.records) == 1
    assert "3 drawn pictures are missing or damaged, and drawn anew" in caplog.text


@pytest.mark.parametrize("damage", ["flip", "unlink", "text"])
def test_a_damaged_list_of_digests_is_written_anew(whole, damage):
    cache, expected = whole
    file = list_file(cache)
    before = file.read_bytes()
    {"flip": flip, "unlink": os.unlink, "text": lambda f: f.write_bytes(b"\xff\n\n")}[damage](file)
    assert read(cache) == list(expected)
    assert file.read_bytes() == before


def test_whole_pictures_are_not_drawn_again(whole, monkeypatch):
    monkeypatch.setattr(drawn, "joblib", None)
    assert read(whole[0]) == list(whole[1])


def test_damage_that_cannot_be_mended_is_said(pictures, monkeypatch):
    cache, expected = pictures
    path = next(iter(expected))
    flip(path)

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(drawn.os, "replace", refuse)
        with pytest.raises(InputError, match="permission is denied"):
            read(cache)
    read(cache)
    assert Path(path).read_bytes() == expected[path]


def test_a_cache_of_an_earlier_version_that_is_read_only_is_used(pictures, monkeypatch):
    cache, expected = pictures
    file = list_file(cache)
    before = file.read_bytes()
    file.unlink()
    monkeypatch.setattr(drawn.os, "access", lambda *args: False)
    monkeypatch.setattr(drawn, "joblib", None)
    assert read(cache) == list(expected)
    file.write_bytes(before)


def test_orphans_do_not_fill_the_limit(tmp_path):
    cache = FeatureCache(tmp_path / "features", limit=20_000)
    (tmp_path / "features" / "g").mkdir(parents=True)
    (tmp_path / "features" / "g" / name(begun=5)).write_bytes(bytes(19_000))
    for key in "ab":
        cache.write("g", {key: torch.eye(1000)[0]})
    assert set(cache.read("g", {"a", "b"})) == {"a", "b"}
