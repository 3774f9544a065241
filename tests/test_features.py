"""Frozen features on disk: equal to live ones, keyed by all they depend on, never stale."""

import logging
import os
import shutil
from dataclasses import replace

import pytest
import torch

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.data import decoding
from clip_adapt.data.dataset import Dataset
from clip_adapt.errors import InputError
from clip_adapt.inputs import features
from clip_adapt.inputs.features import CENTRE, FeatureCache, extract


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "features")


@pytest.fixture(scope="session")
def paths(animals):
    return [item.path for item in Dataset.load(animals).train]


@pytest.fixture
def no_decoding(monkeypatch):
    """Return a function after whose call no image can be decoded."""

    def refuse(path, *rest):
        raise AssertionError(f"{path} is decoded")

    return lambda: monkeypatch.setattr(decoding, "try_load", refuse)


def live(backbone, path):
    """Return the feature of one image, computed on its own."""
    pixels = backbone.preprocess(decoding.decode(path))
    return features.encode_batch(backbone, [pixels], features.choose_batch_size(backbone.device))[0]


def test_cached_features_are_the_live_ones_to_the_last_bit(tiny_backbone, paths, cache):
    expected = torch.stack([live(tiny_backbone, path) for path in paths]).unsqueeze(1)
    cold = extract(tiny_backbone, paths, cache)
    warm = extract(tiny_backbone, paths, cache)
    without = extract(tiny_backbone, paths, FeatureCache(None))
    assert cold.shape == (18, 1, 16)
    assert cold.dtype == torch.float32
    for z in (cold, warm, without):
        assert torch.equal(z, expected)
    torch.testing.assert_close(cold.norm(dim=-1), torch.ones(18, 1))


def test_features_do_not_depend_on_the_other_images(tiny_backbone, paths):
    nothing = FeatureCache(None)
    together = extract(tiny_backbone, paths, nothing)
    assert torch.equal(extract(tiny_backbone, paths[:1], nothing), together[:1])
    assert torch.equal(extract(tiny_backbone, paths[7:12], nothing), together[7:12])
    assert torch.equal(extract(tiny_backbone, paths[::-1], nothing), together.flip(0))
    assert torch.equal(extract(tiny_backbone, paths * 3, nothing), together.repeat(3, 1, 1))


def test_more_images_than_a_batch(tiny_backbone, paths, monkeypatch):
    nothing = FeatureCache(None)
    expected = extract(tiny_backbone, paths, nothing)
    monkeypatch.setattr(features, "choose_batch_size", lambda device: 4)
    torch.testing.assert_close(extract(tiny_backbone, paths, nothing), expected)


def test_a_warm_call_decodes_nothing(tiny_backbone, paths, cache, no_decoding):
    cold = extract(tiny_backbone, paths, cache, views=2)
    no_decoding()
    assert torch.equal(extract(tiny_backbone, paths, cache, views=2), cold)
    assert torch.equal(extract(tiny_backbone, paths[3:5], cache, views=2), cold[3:5])


def test_an_interrupted_set_is_completed(tiny_backbone, paths, cache, monkeypatch):
    extract(tiny_backbone, paths[:4], cache)
    decoded, real = [], decoding.try_load
    monkeypatch.setattr(
        decoding, "try_load", lambda path, *rest: decoded.append(path) or real(path, *rest)
    )
    z = extract(tiny_backbone, paths, cache)
    assert sorted(decoded) == sorted(paths[4:])
    assert torch.equal(z, extract(tiny_backbone, paths, FeatureCache(None)))


def test_an_interrupted_extraction_goes_on_where_it_stopped(
    tiny_backbone, paths, cache, monkeypatch
):
    expected = extract(tiny_backbone, paths, FeatureCache(None))
    monkeypatch.setattr(features, "choose_batch_size", lambda device: 4)
    monkeypatch.setattr(features, "SHARD", 8)
    real, batches = features.encode_batch, []

    def stops(*args):
        batches.append(args)
        if len(batches) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(features, "encode_batch", stops)
    with pytest.raises(KeyboardInterrupt):
        extract(tiny_backbone, paths, cache)
    # One full shard of 8, and what was done of the next.
    assert len(shards(cache)) == 2
    decoded, decode = [], decoding.try_load
    monkeypatch.setattr(
        decoding, "try_load", lambda path, *rest: decoded.append(path) or decode(path, *rest)
    )
    z = extract(tiny_backbone, paths, cache)
    assert sorted(decoded) == sorted(paths[12:])
    torch.testing.assert_close(z, expected)


def test_a_slow_extraction_keeps_what_it_has_every_half_minute(
    tiny_backbone, paths, cache, monkeypatch
):
    monkeypatch.setattr(features, "choose_batch_size", lambda device: 4)
    now = iter(range(0, 10_000, 11))  # seconds, an image each
    monkeypatch.setattr(features.time, "monotonic", lambda: next(now))
    written, write = [], FeatureCache.write

    def count(self, group, found):
        written.append(len(found))
        write(self, group, found)

    monkeypatch.setattr(FeatureCache, "write", count)
    extract(tiny_backbone, paths[:8], cache)
    assert [number for number in written if number] == [3, 3, 2]


def test_a_moved_image_is_known_and_a_changed_one_is_not(
    tiny_backbone, make_folder, tmp_path, cache, no_decoding
):
    root = make_folder(tmp_path / "d", splits=(), per_class=2)
    first = extract(tiny_backbone, [str(root / "cat" / "0.png")], cache)
    shutil.copy(root / "dog" / "0.png", root / "cat" / "0.png")
    changed = extract(tiny_backbone, [str(root / "cat" / "0.png")], cache)
    assert not torch.equal(first, changed)
    no_decoding()
    assert torch.equal(extract(tiny_backbone, [str(root / "dog" / "0.png")], cache), changed)


def test_equal_images_are_decoded_once(tiny_backbone, paths, tmp_path, cache, monkeypatch):
    copy = shutil.copy(paths[0], tmp_path / "copy.png")
    decoded, real = [], decoding.try_load
    monkeypatch.setattr(
        decoding, "try_load", lambda path, *rest: decoded.append(path) or real(path, *rest)
    )
    z = extract(tiny_backbone, [paths[0], str(copy)], cache)
    assert len(decoded) == 1
    assert torch.equal(z[0], z[1])


def test_views_are_kept_one_by_one(tiny_backbone, paths, cache, monkeypatch):
    three = extract(tiny_backbone, paths[:3], cache, views=3)
    assert three.shape == (3, 3, 16)
    assert len({z.numpy().tobytes() for z in three[0]}) == 3
    indices, real = [], features.make_view
    monkeypatch.setattr(features, "make_view", lambda *a: indices.append(a[2]) or real(*a))
    four = extract(tiny_backbone, paths[:3], cache, views=4)
    assert indices == [3] * 3
    assert torch.equal(four[:, :3], three)


def test_one_view_and_no_augmentation_are_the_centre_view(tiny_backbone, paths, cache):
    centre = extract(tiny_backbone, paths[:2], cache)
    assert torch.equal(extract(tiny_backbone, paths[:2], cache, views=5, augment="none"), centre)


def test_the_key_tells_weights_transform_and_view_apart(tiny_card, tiny_backbone, cache):
    changed = Backbone.from_card(tiny_card, device="cpu")
    groups = [
        features._name_group(tiny_backbone, index, augment)
        for index, augment in [(CENTRE, "coop"), (0, "coop"), (1, "coop")]
    ]
    assert features._name_group(changed, CENTRE, "none") == groups[0]
    changed.transform = {**changed.transform, "interpolation": "bilinear"}
    groups.append(features._name_group(changed, CENTRE, "coop"))
    larger = Backbone.from_card(replace(tiny_card, image_size=64), device="cpu")
    groups.append(features._name_group(larger, CENTRE, "coop"))
    half = Backbone.from_card(tiny_card, device="cpu", precision="bf16")
    groups.append(features._name_group(half, CENTRE, "coop"))
    other = Backbone.from_card(tiny_card, device="cpu")
    other.fingerprint = "0" * 64
    groups.append(features._name_group(other, CENTRE, "coop"))
    assert len(set(groups)) == len(groups) == 7


def test_other_weights_do_not_read_these_features(tiny_card, tiny_backbone, paths, cache):
    from_first = extract(tiny_backbone, paths[:3], cache)
    torch.manual_seed(1)
    random = Backbone.from_card(replace(tiny_card, pretrained="random"), device="cpu")
    from_other = extract(random, paths[:3], cache)
    assert not torch.equal(from_first, from_other)
    assert torch.equal(from_other, extract(random, paths[:3], FeatureCache(None)))


def shards(cache):
    return sorted(cache.folder.rglob("*.safetensors"))


@pytest.mark.parametrize("damage", [b"", b"no safetensors", None])
def test_a_damaged_file_is_said_and_made_anew(tiny_backbone, paths, cache, damage, caplog):
    expected = extract(tiny_backbone, paths, cache)
    (shard,) = shards(cache)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-20] if damage is None else damage)
    with caplog.at_level(logging.WARNING, "clip_adapt"):
        assert torch.equal(extract(tiny_backbone, paths, cache), expected)
    assert f"a damaged feature file is left aside and made anew: {shard}" in caplog.text
    assert shard.read_bytes() == whole


def test_a_damaged_file_does_not_stay(tiny_backbone, paths, cache):
    extract(tiny_backbone, paths, cache)
    (shard,) = shards(cache)
    shard.write_bytes(b"damaged")
    extract(tiny_backbone, paths[:2], cache)
    assert not shard.exists()
    assert len(shards(cache)) == 1


def unit(place):
    """Return a unit feature (1000,)."""
    return torch.eye(1000)[place]


def test_the_limit_lets_the_oldest_go_first(cache):
    one = {"a": unit(0)}
    cache.write("g", one)
    size = shards(cache)[0].stat().st_size
    small = FeatureCache(cache.folder, limit=2.5 * size)
    small.write("g", {"b": unit(1)})
    for age, shard in enumerate(shards(small)):
        os.utime(shard, (1000 + age, 1000 + age))
    oldest, kept = shards(small)
    os.utime(oldest, (1, 1))
    small.write("g", {"c": unit(1)})
    assert not oldest.exists()
    assert kept.exists()
    assert len(shards(small)) == 2
    assert sum(shard.stat().st_size for shard in shards(small)) <= small.limit
    assert "c" in small.read("g", {"a", "b", "c"})


def test_what_was_read_lately_stays(cache):
    for age, key in enumerate("ab"):
        before = set(shards(cache))
        cache.write("g", {key: unit(0)})
        (new,) = set(shards(cache)) - before
        os.utime(new, (1000 + age, 1000 + age))
    size = shards(cache)[0].stat().st_size
    cache.read("g", {"a"})
    FeatureCache(cache.folder, limit=2.5 * size).write("g", {"c": unit(0)})
    assert set(cache.read("g", {"a", "b", "c"})) == {"a", "c"}


def test_without_a_folder_nothing_is_written(tiny_backbone, paths, tmp_path, everything_in):
    extract(tiny_backbone, paths[:2], FeatureCache(None))
    assert everything_in(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_said_and_costs_nothing_else(
    tiny_backbone, paths, tmp_path, caplog
):
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING, "clip_adapt"):
        z = extract(tiny_backbone, paths[:2], FeatureCache(tmp_path / "file" / "features"))
    assert z.shape == (2, 1, 16)
    assert "features are not kept for the next run: cannot write into" in caplog.text
    assert "a part of this path is a file" in caplog.text


def test_broken_images_are_listed_and_good_ones_are_not(tiny_backbone, paths, tmp_path, cache):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text(f"{name} is no image")
    bad = [str(tmp_path / name) for name in ("a.png", "b.png")]
    with pytest.raises(InputError) as caught:
        extract(tiny_backbone, [paths[0], *bad], cache)
    assert str(caught.value).splitlines()[:-1] == [
        "2 images cannot be read:",
        *(f"  {path}: this is no image that can be read" for path in bad),
    ]


def test_features_that_are_not_finite_are_refused(tiny_card, paths, cache):
    broken = Backbone.from_card(tiny_card, device="cpu")
    broken.model.visual.proj.data[0, 0] = torch.nan
    with pytest.raises(InputError, match="tower of tiny gives features that are not finite in flo"):
        extract(broken, paths[:2], cache)
    assert shards(cache) == []


def test_no_images_give_no_rows(tiny_backbone, cache):
    assert extract(tiny_backbone, [], cache).shape == (0, 1, 16)
    assert extract(tiny_backbone, [], cache, views=3).shape == (0, 3, 16)
