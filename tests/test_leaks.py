"""Images and groups in two splits, near-duplicates, and what is remembered of images."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageOps

from clip_adapt.data import decoding, image_memory, leaks, scan
from clip_adapt.data.dataset import Dataset
from clip_adapt.errors import InputError


def photo(seed, size=96):
    """Return a smooth picture, as photographs are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes of photographs, all different."""
    root, seed = tmp_path / "photos", 0
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for index in range(4):
                photo(seed).save(root / split / name / f"{index}.png")
                seed += 1
    return root


def check(root):
    data = Dataset.load(root)
    return data.check(data.survey())


def test_different_images_are_no_leak(photos):
    assert check(photos) == ([], [])


@pytest.mark.parametrize("suffix", ["bmp", "webp", "tif"])
def test_the_same_pixels_are_a_leak_whatever_name_and_format(photos, suffix):
    source, copy = photos / "train" / "cat" / "1.png", photos / "test" / "dog" / f"other.{suffix}"
    Image.open(source).save(copy, **({"lossless": True} if suffix == "webp" else {}))
    with pytest.raises(InputError) as caught:
        check(photos)
    assert str(caught.value) == (
        "1 images stand in two splits, so a test score would be too good:\n"
        f"  {source}  =  {copy}\nRemove one of each pair."
    )


def test_a_turned_copy_is_the_same_image(photos):
    source, copy = photos / "val" / "cat" / "1.png", photos / "test" / "cat" / "9.tif"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(source).transpose(Image.Transpose.ROTATE_90).save(copy, exif=exif)
    with pytest.raises(InputError, match=f"{source}  =  {copy}"):
        check(photos)


def test_a_size_is_part_of_the_pixels(tmp_path):
    for name, shape in (("a", (8, 32, 3)), ("b", (32, 8, 3))):
        Image.fromarray(np.zeros(shape, dtype=np.uint8)).save(tmp_path / f"{name}.png")
    one, two = scan.survey_images([str(tmp_path / "a.png"), str(tmp_path / "b.png")]).pixels
    assert not np.array_equal(one, two)


def test_a_published_split_with_a_leak_is_used_with_a_note(photos, tmp_path):
    shutil.copy(photos / "train" / "cat" / "1.png", photos / "test" / "cat" / "9.png")
    card = tmp_path / "card.yaml"
    card.write_text("name: published\nsource: folder\nroot: photos\non_leak: warn\n")
    notes, twins = check(card)
    assert len(notes) == 1 and notes[0].startswith("1 images stand in two splits, so a test score")
    assert twins == []


@pytest.mark.parametrize(("quality", "scale"), [(50, 1.0), (80, 0.6), (90, 1.4)])
def test_images_that_look_alike_are_noted_and_listed(photos, quality, scale):
    source, twin = photos / "train" / "dog" / "2.png", photos / "test" / "cat" / "again.jpg"
    ImageOps.scale(Image.open(source), scale).save(twin, quality=quality)
    notes, twins = check(photos)
    assert notes == [
        "1 images look like one of another split (near-duplicates); they are listed in "
        "near_duplicates.csv"
    ]
    assert [(t.path, t.split, t.twin, t.twin_split) for t in twins] == [
        (str(twin), "test", str(source), "train")
    ]
    lines = leaks.format_twins(twins).splitlines()
    assert lines[0] == "path,split,looks_like,of_split,bits_of_256"
    assert lines[1].startswith(f"{twin},test,{source},train,")
    assert len(lines) == 2


def test_a_run_writes_the_near_duplicates(train_tiny, photos, tmp_path, caplog):
    twin = photos / "test" / "cat" / "again.jpg"
    Image.open(photos / "train" / "dog" / "2.png").save(twin, quality=80)
    code, _, _ = train_tiny(photos, "method=zero_shot")
    assert code == 0
    assert "1 images look like one of another split" in caplog.text
    assert str(twin) in (tmp_path / "out" / "near_duplicates.csv").read_text()
    assert (
        "near-duplicates" in json.loads((tmp_path / "out" / "metrics.json").read_text())["notes"][0]
    )


def test_nearest_is_the_plain_search(monkeypatch):
    rng = np.random.default_rng(0)
    theirs = rng.integers(0, 2**63, 50, dtype=np.uint64)
    mine = rng.integers(0, 2**63, 40, dtype=np.uint64)
    mine[7], mine[23] = theirs[3] ^ np.uint64(0b1011), theirs[49] ^ np.uint64(0b1111111)
    mine[31], mine[39] = theirs[17] ^ np.uint64(0b111111 << 40), theirs[0]
    for block in (1, 100, 1 << 22):
        monkeypatch.setattr(leaks, "BLOCK", block)
        assert leaks._find_nearest(mine, theirs) == [(7, 3), (31, 17), (39, 0)]
    assert leaks._find_nearest(mine, theirs[:0]) == []


@pytest.mark.parametrize(("bits", "expected"), [(0, [0]), (31, [31]), (32, [32]), (33, [])])
def test_a_finer_hash_confirms_what_looks_alike_up_to_32_of_256_bits(monkeypatch, bits, expected):
    def phash(path, hash_size):
        assert hash_size == 16
        flat = np.zeros(hash_size**2, dtype=bool)
        flat[: bits if path == "twin.png" else 0] = True
        return imagehash.ImageHash(flat.reshape(hash_size, hash_size))

    monkeypatch.setattr(imagehash, "phash", phash)
    monkeypatch.setattr(decoding, "decode", lambda path: path)
    found = leaks._confirm("one.png", "test", "twin.png", "train")
    assert found == [leaks.Twin("one.png", "test", "twin.png", "train", n) for n in expected]


def test_copies_in_other_formats_fall_into_one_split(make_folder, tmp_path):
    root = make_folder(tmp_path / "d", splits=(), per_class=10)
    for path in list(root.rglob("*.png")):
        Image.open(path).save(path.with_suffix(".bmp"))
    data = Dataset.load(root)
    where = {}
    for split, items in data.parts().items():
        for item in items:
            where.setdefault(Path(item.path).with_suffix(""), set()).add(split)
    assert {len(splits) for splits in where.values()} == {1}
    assert data.check(data.survey()) == ([], [])


def test_a_group_in_two_splits_of_a_table(photos, tmp_path):
    rows = [
        f"{p.relative_to(photos)},{p.parent.name},{p.parts[-3]},{p.stem}\n"
        for p in sorted(photos.rglob("*.png"))
    ]
    (photos / "t.csv").write_text("path,label,split,patient\n" + "".join(rows))
    with pytest.raises(InputError) as caught:
        Dataset.load(photos / "t.csv")
    assert str(caught.value).splitlines()[:2] == [
        "4 groups stand in two splits:",
        "  0 (in test, train, val)",
    ]


@pytest.fixture
def decoded(monkeypatch):
    """The paths that were decoded, in a list that grows."""
    seen, real = [], decoding.try_examine
    monkeypatch.setattr(decoding, "try_examine", lambda path: seen.append(path) or real(path))
    return seen


def test_a_second_survey_decodes_nothing(photos, tmp_path, decoded):
    paths = [str(p) for p in sorted(photos.rglob("*.png"))]
    first = scan.survey_images(paths, tmp_path / "memory")
    assert sorted(decoded) == paths
    decoded.clear()
    again = scan.survey_images(paths, tmp_path / "memory")
    assert decoded == []
    for name in ("sha256", "pixels", "looks"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
        assert np.array_equal(getattr(first, name), getattr(scan.survey_images(paths), name))
    photo(99).save(paths[3])
    Path(paths[5]).write_bytes(b"")
    decoded.clear()
    changed = scan.survey_images(paths, tmp_path / "memory")
    assert decoded == [paths[3], paths[5]]
    assert changed.broken == {paths[5]: "the file is empty (0 bytes)"}
    assert not np.array_equal(first.pixels[3], changed.pixels[3])
    assert np.array_equal(first.pixels[4], changed.pixels[4])
    decoded.clear()
    assert scan.survey_images(paths, tmp_path / "memory").broken == changed.broken
    assert decoded == [paths[5]]


def test_an_interrupted_survey_goes_on_where_it_stopped(photos, tmp_path, monkeypatch):
    paths = [str(p) for p in sorted(photos.rglob("*.png"))]
    monkeypatch.setattr(scan, "CHUNK", 5)
    real, seen = decoding.try_examine, []

    def stops(path):
        seen.append(path)
        if path == paths[12]:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(decoding, "try_examine", stops)
    with pytest.raises(KeyboardInterrupt):
        scan.survey_images(paths, tmp_path)
    seen.clear()
    monkeypatch.setattr(decoding, "try_examine", lambda path: seen.append(path) or real(path))
    scan.survey_images(paths, tmp_path)
    assert sorted(seen) == paths[10:]


def test_a_digest_is_remembered_and_is_that_of_the_file(photos, tmp_path, monkeypatch):
    import hashlib

    paths = [str(p) for p in sorted(photos.rglob("*.png"))]
    expected = [hashlib.sha256(Path(p).read_bytes()).hexdigest() for p in paths]
    assert scan.hash_images(paths, tmp_path) == expected
    monkeypatch.setattr(scan, "_hash_file", None)
    assert scan.hash_images(paths * 2, tmp_path) == expected * 2


def test_a_memory_that_is_damaged_or_in_the_way_costs_time_only(photos, tmp_path, caplog):
    paths = [str(p) for p in sorted(photos.rglob("*.png"))]
    expected = scan.survey_images(paths)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / image_memory.FILE).write_text("no database " * 100)
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "bad", tmp_path / "file"):
        with caplog.at_level(logging.WARNING, "clip_adapt"):
            found = scan.survey_images(paths, folder)
        assert np.array_equal(found.pixels, expected.pixels)
        assert "is not kept for the next run" in caplog.text
        caplog.clear()
    scan.survey_images(paths, tmp_path / "bad")  # made anew
    assert not caplog.records and (tmp_path / "bad" / image_memory.FILE).is_file()


def test_items_may_stand_in_the_split_more_than_once(photos):
    data = Dataset.load(photos)
    doubled = replace(data, train=[*data.train, data.train[0]])
    assert doubled.check(doubled.survey()) == ([], [])
