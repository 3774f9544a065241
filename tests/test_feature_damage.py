"""A cache of features that is not as it was written: what is believed, and what is left alone."""

from __future__ import annotations

import errno
import json
import logging
import os
import random

import pytest
import torch

from clip_adapt.inputs import feature_cache
from clip_adapt.inputs.feature_cache import FeatureCache
from clip_adapt.system.tensor_files import read_tensors, write_tensors

KEYS = [f"{i:064x}" for i in range(24)]


@pytest.fixture
def features():
    return dict(zip(KEYS, torch.nn.functional.normalize(torch.randn(24, 16)), strict=True))


@pytest.fixture
def cache(tmp_path, features):
    cache = FeatureCache(tmp_path / "features")
    cache.write("g", features)
    return cache


@pytest.fixture
def shard(cache):
    (shard,) = cache.folder.rglob("*.safetensors")
    return shard


def test_nothing_of_a_file_with_a_flipped_bit_is_used(cache, shard, features, caplog):
    whole = shard.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(whole)), 250):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        shard.write_bytes(flipped)
        with caplog.at_level(logging.WARNING, "clip_adapt"):
            caplog.clear()
            assert cache.read("g", set(KEYS)) == {}
        assert len(caplog.records) == 1
        assert f"a damaged feature file is left aside and made anew: {shard}" in caplog.text
        assert not shard.exists()
    shard.write_bytes(whole)
    found = cache.read("g", set(KEYS))
    assert all(torch.equal(found[key], features[key]) for key in KEYS)


def test_a_damaged_key_makes_its_image_anew(cache, shard):
    whole = shard.read_bytes()
    shard.write_bytes(whole.replace(KEYS[0].encode(), KEYS[0][:-1].encode() + b"f"))
    assert cache.read("g", {KEYS[0]}) == {}  # it is not among them
    assert cache.read("g", {KEYS[1]}) == {}
    assert not shard.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t * 1.01, "its features do not have the length 1"),
        (lambda t: t * torch.nan, "its features do not have the length 1"),
        (lambda t: t * torch.inf, "its features do not have the length 1"),
        (lambda t: t.double(), r"torch.float64 (24, 16) for 24 images"),
        (lambda t: t[:-1], r"torch.float32 (23, 16) for 24 images"),
        (lambda t: t[:, 0], r"torch.float32 (24,) for 24 images"),
    ],
)
def test_what_training_takes_for_granted_is_looked_at(cache, shard, caplog, change, reason):
    tensors, metadata = read_tensors(shard)
    del metadata["sha256"]
    write_tensors(shard, {"features": change(tensors["features"])}, metadata)
    with caplog.at_level(logging.WARNING, "clip_adapt"):
        assert cache.read("g", set(KEYS)) == {}
    assert f"({reason})" in caplog.text


def test_features_of_another_group_or_without_digest_are_not_used(cache, shard, caplog):
    whole = shard.read_bytes()
    other = cache.folder / "other" / shard.name
    other.parent.mkdir()
    other.write_bytes(whole)
    shard.write_bytes(whole.replace(b'"sha256"', b'"sha255"'))
    with caplog.at_level(logging.WARNING, "clip_adapt"):
        assert cache.read("other", set(KEYS)) == cache.read("g", set(KEYS)) == {}
    assert "(it belongs to g)" in caplog.text and "(it has no digest)" in caplog.text


def test_only_what_is_wanted_is_read_as_a_whole(cache, monkeypatch):
    monkeypatch.setattr(feature_cache, "read_tensors", None)
    assert cache.read("g", {"f" * 64}) == cache.read("g", set()) == {}


def test_a_file_that_cannot_be_read_stays_as_it_is(cache, shard, caplog, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(feature_cache, "read_tensors", refuse)
    with caplog.at_level(logging.WARNING, "clip_adapt"):
        assert cache.read("g", set(KEYS)) == {}
    assert shard.exists()
    assert "a feature file cannot be read, and is left as it is" in caplog.text


def test_a_good_file_that_cannot_be_touched_is_used(cache, shard, features, caplog, monkeypatch):
    def refuse(path):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(os, "utime", refuse)
    found = cache.read("g", set(KEYS))
    assert all(torch.equal(found[key], features[key]) for key in KEYS)
    assert shard.exists() and not caplog.records


def test_a_damaged_file_that_cannot_be_taken_away_is_said(cache, shard, caplog, monkeypatch):
    shard.write_bytes(b"damaged")
    monkeypatch.setattr(type(shard), "unlink", lambda path: os.rmdir(path))
    assert cache.read("g", set(KEYS)) == {}
    assert shard.exists() and len(caplog.records) == 1


def test_what_is_being_written_counts_for_the_limit_and_stays(cache, shard):
    size = shard.stat().st_size
    temporary = cache.folder / "g" / ".being-written"
    temporary.write_bytes(bytes(2 * size))
    os.utime(temporary, (1, 1))
    FeatureCache(cache.folder, limit=2.9 * size).write("g", {"f" * 64: torch.eye(16)[0]})
    assert temporary.exists() and not shard.exists()


def test_room_is_made_beside_others_who_do_so(cache, monkeypatch):
    real = feature_cache._list_sizes

    def vanishing(folder):
        for found in real(folder):
            found[2].unlink()
            yield found

    monkeypatch.setattr(feature_cache, "_list_sizes", vanishing)
    FeatureCache(cache.folder, limit=1).write("g", {"f" * 64: torch.eye(16)[0]})


def test_the_keys_are_in_the_file(shard):
    assert json.loads(read_tensors(shard)[1]["keys"]) == KEYS


def test_a_cache_whose_name_is_too_long_keeps_nothing(tmp_path, features, caplog):
    cache = FeatureCache(tmp_path / ("x" * 300))
    cache.write("g", features)
    assert cache.read("g", set(KEYS)) == {}
    assert "its name is too long" in caplog.text
