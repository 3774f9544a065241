"""Files that are exchanged for others, however alike: what is trained is what the manifest says."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clip_adapt.data import decoding, image_memory, scan
from clip_adapt.data.formats import limits
from clip_adapt.data.items import Item
from clip_adapt.errors import InputError
from clip_adapt.inputs import features
from clip_adapt.inputs.feature_cache import FeatureCache
from clip_adapt.inputs.features import extract
from clip_adapt.inputs.pixels import Pixels
from clip_adapt.objectives import Objective
from clip_adapt.objectives.classify import Classify
from clip_adapt.system import files, stamps
from clip_adapt.system.files import hash_file
from clip_adapt.system.quiet import ignore_warnings

LONG_AGO = (315532800, 315532800)


def draw(path, seed, suffix="BMP"):
    """Write a picture; all have the same size in bytes, and the same time of change."""
    noise = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, suffix)
    os.utime(path, LONG_AGO)
    return str(path)


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def rename_over(path, other):
    os.replace(other, path)


def copy_with_times(path, other):
    os.remove(path)
    shutil.copy2(other, path)


def write_in_place(path, other):
    Path(path).write_bytes(Path(other).read_bytes())
    os.utime(path, LONG_AGO)


def point_elsewhere(path, other):
    os.remove(path)
    os.symlink(other, path)


EXCHANGES = [rename_over, copy_with_times, write_in_place, point_elsewhere]


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_an_exchanged_file_is_noticed(tmp_path, exchange):
    one, other = draw(tmp_path / "a.bmp", 1), draw(tmp_path / "b.bmp", 2)
    expected, size = digest(other), os.stat(one).st_size
    for look in (hash_file, lambda p: scan.hash_images([p], tmp_path / "memory")[0]):
        assert look(one) == digest(one)
    before = scan.survey_images([one], tmp_path / "memory")
    exchange(one, other)
    assert (os.stat(one).st_size, os.stat(one).st_mtime) == (size, LONG_AGO[0])
    assert hash_file(one) == expected
    assert scan.hash_images([one], tmp_path / "memory") == [expected]
    after = scan.survey_images([one], tmp_path / "memory")
    assert not np.array_equal(before.pixels, after.pixels)


def test_a_link_that_points_elsewhere_is_noticed(tmp_path):
    for name in "ab":
        draw(tmp_path / f"{name}.bmp", ord(name))
    link = tmp_path / "link.bmp"
    found = []
    for name in "aba":
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / f"{name}.bmp")
        found += scan.hash_images([str(link)], tmp_path / "memory")
    assert found == [digest(tmp_path / f"{name}.bmp") for name in "aba"]


@pytest.mark.parametrize("age", [0, stamps.TICK - 1])
def test_within_a_tick_of_the_clock_bytes_are_compared(tmp_path, monkeypatch, age):
    path = draw(tmp_path / "a.bmp", 1)
    now = 10**18
    frozen = (os.stat(path).st_size, now - age, now - age, 1)
    for module in (scan, files):
        monkeypatch.setattr(module, "read_stamp", lambda path: frozen)
    monkeypatch.setattr(time, "time_ns", lambda: now)
    first = [*scan.hash_images([path], tmp_path / "memory"), hash_file(path)]
    draw(path, 2)
    again = [*scan.hash_images([path], tmp_path / "memory"), hash_file(path)]
    assert again == [digest(path)] * 2 != first


def test_an_unchanged_file_is_compared_once_and_then_believed(tmp_path, monkeypatch):
    path, now = draw(tmp_path / "a.bmp", 1), 10**18
    monkeypatch.setattr(scan, "read_stamp", lambda path: (1, now, now, 1))
    monkeypatch.setattr(time, "time_ns", lambda: now)
    expected = scan.hash_images([path], tmp_path / "memory")
    monkeypatch.setattr(scan, "_hash_file", None)
    monkeypatch.setattr(time, "time_ns", lambda: now + 2 * stamps.TICK)
    assert scan.hash_images([path], tmp_path / "memory") == expected
    monkeypatch.setattr(image_memory, "_has_digest", None)
    assert scan.hash_images([path], tmp_path / "memory") == expected


def test_a_damaged_row_is_not_believed(tmp_path):
    path, memory = draw(tmp_path / "a.bmp", 1), tmp_path / "memory"
    expected = scan.survey_images([path], memory)
    for place in range(56):
        with sqlite3.connect(memory / image_memory.FILE) as opened:
            (facts,) = opened.execute("SELECT facts FROM seen").fetchone()
            flipped = bytearray(facts)
            flipped[place] ^= 1
            opened.execute("UPDATE seen SET facts = ?", [bytes(flipped)])
        opened.close()
        found = scan.survey_images([path], memory)
        for name in ("sha256", "pixels", "looks"):
            assert np.array_equal(getattr(found, name), getattr(expected, name))


@pytest.fixture
def blind(monkeypatch):
    """A file system that shows size and time only."""
    for module in (scan, files):
        monkeypatch.setattr(
            module, "read_stamp", lambda path: (os.stat(path).st_size, LONG_AGO[0], 0, 0)
        )
    files._hash_unchanged.cache_clear()
    yield
    files._hash_unchanged.cache_clear()


def test_what_is_decoded_is_what_was_looked_at(tiny_backbone, tmp_path, blind):
    cache = FeatureCache(tmp_path / "cache" / "features")
    path = draw(tmp_path / "a.bmp", 1)
    scan.survey_images([path], cache.memory)
    draw(path, 2)
    with pytest.raises(InputError, match=r"a\.bmp: it is not what it was when it was looked at"):
        extract(tiny_backbone, [path], cache)
    assert not list(cache.folder.rglob("*.safetensors"))
    expected = extract(tiny_backbone, [draw(tmp_path / "b.bmp", 2)], FeatureCache(None))
    assert torch.equal(extract(tiny_backbone, [path], cache), expected)  # it was forgotten


@pytest.mark.parametrize("augment", ["none", "coop"])
@pytest.mark.parametrize("batched", [False, True])
def test_pixels_are_those_of_the_manifest(tiny_backbone, tmp_path, augment, batched):
    path = draw(tmp_path / "a.bmp", 1)
    pixels = Pixels(tiny_backbone, [Item(path, 0)], augment, batched)
    draw(path, 2)
    with pytest.raises(InputError, match="it is not what it was when it was looked at"):
        pixels.batch([0])


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "gif", "webp"])
def test_an_image_is_the_same_from_checked_bytes(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)).save(path)
    for size in (decoding.IN_MEMORY, 10):
        monkeypatch.setattr(decoding, "IN_MEMORY", size)
        plain, checked = decoding.try_load(path), decoding.try_load(path, digest(path))
        assert np.array_equal(np.asarray(plain), np.asarray(checked))
        assert decoding.try_load(path, "0" * 64) == decoding.CHANGED


# Through a whole run


def replace_pictures(folder, seed):
    for number, name in enumerate(("cat", "dog")):
        for index in range(8):
            (folder / name).mkdir(parents=True, exist_ok=True)
            draw(folder / name / f"{index}.bmp", seed + 100 * number + index)


def read_manifest(folder):
    return [json.loads(line) for line in (folder / "support.jsonl").read_text().splitlines()]


QUICK = ("method=linear_probe", "report=false", "cache_dir=cache")


def test_exchanged_pictures_are_trained_on_anew(train_tiny, tmp_path, monkeypatch):
    found = []
    real = features.encode_batch
    monkeypatch.setattr(
        features, "encode_batch", lambda *args: found.append(len(args[1])) or real(*args)
    )
    for seed in (0, 1000):
        replace_pictures(tmp_path / "d", seed)
        found.clear()
        assert train_tiny(tmp_path / "d", *QUICK)[0] == 0
        assert sum(found) > 4
        for row in read_manifest(tmp_path / "out"):
            assert row["sha256"] == digest(row["path"])


def test_on_a_blind_file_system_the_drawn_pictures_are_compared(train_tiny, tmp_path, blind):
    replace_pictures(tmp_path / "d", 0)
    assert train_tiny(tmp_path / "d", *QUICK)[0] == 0
    replace_pictures(tmp_path / "d", 1000)
    files._hash_unchanged.cache_clear()  # another process
    code, _, err = train_tiny(tmp_path / "d", *QUICK)
    assert code == 2 and "images are not what they were when they were looked at" in err
    # Nothing of what was remembered is believed any more.
    assert train_tiny(tmp_path / "d", *QUICK)[0] == 0
    for row in read_manifest(tmp_path / "out"):
        assert row["sha256"] == digest(row["path"])


@pytest.mark.parametrize("when", ["draw", "solve"])
def test_pictures_that_change_during_a_run_are_noticed(train_tiny, tmp_path, monkeypatch, when):
    replace_pictures(tmp_path / "d", 0)
    real = getattr(Classify, when)

    def disturbed(self, *args):
        done = real(self, *args)
        replace_pictures(tmp_path / "d", 1000)
        return done

    assert issubclass(Classify, Objective)
    monkeypatch.setattr(Classify, when, disturbed)
    code, _, err = train_tiny(tmp_path / "d", *QUICK)
    assert code == 2
    assert "images are not what they were when they were looked at" in err
    assert not (tmp_path / "out").exists()


# Warnings


def test_warning_filters_stay_as_they_are(tmp_path):
    paths = [draw(tmp_path / f"{i}.bmp", i) for i in range(30)]
    before = list(warnings.filters)
    for _ in range(20):
        scan.survey_images(paths)
        assert warnings.filters == before


def test_every_image_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    paths = [draw(tmp_path / f"{i}.bmp", i) for i in range(8)]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1599)
    message = "more than 1599 pixels: refused as a decompression bomb"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as a user may have said
        for _ in range(5):
            assert decoding.find_broken(paths) == dict.fromkeys(paths, message)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1600)
        assert decoding.find_broken(paths) == {}
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # some libraries do so
        monkeypatch.setattr(limits, "MOST_PIXELS", 1599)
        assert decoding.find_broken(paths) == dict.fromkeys(paths, message)


def test_ignoring_warnings_in_threads_leaves_the_filters_as_they_were():
    before, meeting = list(warnings.filters), threading.Barrier(8)

    def work(number):
        meeting.wait()
        for _ in range(50):
            with ignore_warnings(UserWarning):
                time.sleep(0)

    threads = [threading.Thread(target=work, args=[n]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
