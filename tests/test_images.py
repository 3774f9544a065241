"""Decoding of every kind of file, and the views of an image."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from clip_adapt import images
from clip_adapt.errors import InputError

RED, GREY = (200, 40, 30), 90


def noisy(width=40, height=30, seed=0):
    """Return a picture of noise."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff"])
def test_lossless_files_give_their_exact_pixels(tmp_path, suffix):
    picture = noisy()
    picture.save(tmp_path / f"a{suffix}")
    decoded = images.decode(tmp_path / f"a{suffix}")
    assert decoded.mode == "RGB"
    assert np.array_equal(np.asarray(decoded), np.asarray(picture))


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp", ".gif"])
def test_other_files_give_nearly_their_pixels(tmp_path, suffix):
    picture = Image.new("RGB", (40, 30), RED)
    picture.save(tmp_path / f"a{suffix}")
    decoded = images.decode(str(tmp_path / f"a{suffix}"))
    assert (decoded.mode, decoded.size) == ("RGB", (40, 30))
    assert np.abs(np.asarray(decoded).astype(int) - RED).max() <= 6


def test_every_suffix_that_counts_as_an_image_is_tried_above():
    tried = {".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg", ".webp", ".gif"}
    assert tried == images.SUFFIXES


def test_grey_palette_and_alpha_become_rgb(tmp_path):
    Image.new("L", (8, 8), GREY).save(tmp_path / "grey.png")
    Image.new("RGB", (8, 8), RED).quantize(4).save(tmp_path / "palette.png")
    Image.new("RGBA", (8, 8), (*RED, 128)).save(tmp_path / "alpha.png")
    Image.new("LA", (8, 8), (GREY, 0)).save(tmp_path / "grey-alpha.png")
    expected = {"grey": (GREY,) * 3, "palette": RED, "alpha": RED, "grey-alpha": (GREY,) * 3}
    for name, colour in expected.items():
        decoded = images.decode(tmp_path / f"{name}.png")
        assert decoded.mode == "RGB"
        assert decoded.getpixel((4, 4)) == colour, name


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, None),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_270),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_90),
    ],
)
def test_exif_orientation_is_applied(tmp_path, orientation, turn):
    picture = noisy()
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.png", exif=exif)
    expected = picture if turn is None else picture.transpose(turn)
    with Image.open(tmp_path / "a.png") as opened:
        for decoded in (images.decode(tmp_path / "a.png"), images.decode(opened)):
            assert np.array_equal(np.asarray(decoded), np.asarray(expected))


def test_arrays_and_pil_images_are_taken_as_they_are():
    rgb = np.asarray(noisy())
    assert np.array_equal(np.asarray(images.decode(rgb)), rgb)
    assert np.array_equal(np.asarray(images.decode(Image.fromarray(rgb))), rgb)
    grey = rgb[..., 0]
    assert np.array_equal(np.asarray(images.decode(grey)), np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize(
    ("array", "given"),
    [
        (np.zeros((4, 4, 3), dtype=np.float32), r"float32 \(4, 4, 3\)"),
        (np.zeros(4, dtype=np.uint8), r"uint8 \(4,\)"),
        (np.zeros((1, 4, 4, 3), dtype=np.uint8), r"uint8 \(1, 4, 4, 3\)"),
        (np.zeros((3, 40, 40), dtype=np.uint8), r"uint8 \(3, 40, 40\)"),
    ],
)
def test_other_arrays_are_refused_by_type_and_shape(array, given):
    message = rf"an array image must be uint8 \(H, W, 3\) or \(H, W\), not {given}"
    with pytest.raises(InputError, match=message):
        images.decode(array)


def broken_files(folder):
    """Write a file for every way to be broken; return what is said of each."""
    noisy(200, 150).save(folder / "whole.jpg")
    noisy(200, 150).save(folder / "whole.png")
    for kind in ("jpg", "png"):
        whole = (folder / f"whole.{kind}").read_bytes()
        (folder / f"cut.{kind}").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("I am a text.")
    (folder / "folder.png").mkdir()
    return {
        "cut.jpg": "damaged: image file is truncated",
        "cut.png": "damaged: ",
        "empty.jpg": "the file is empty (0 bytes)",
        "text.png": "this is no image that can be read",
        "folder.png": "this is a folder, not an image",
        "none.png": f"no such file (looked at {folder / 'none.png'})",
    }


def test_every_broken_file_has_its_reason(tmp_path):
    for name, reason in broken_files(tmp_path).items():
        path = tmp_path / name
        assert str(images.try_decode(path)).startswith(reason), name
        with pytest.raises(InputError) as caught:
            images.decode(path)
        assert str(caught.value).startswith(f"{path}: {reason}")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    noisy(40, 30).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert images.try_decode(tmp_path / "a.png") == (
        "more than 1000 pixels: refused as a decompression bomb"
    )


def test_broken_files_are_found_and_refused_together(tmp_path):
    reasons = broken_files(tmp_path)
    paths = [str(tmp_path / name) for name in ("whole.jpg", *reasons, "whole.png", "cut.jpg")]
    found = images.find_broken(paths)
    assert list(found) == [str(tmp_path / name) for name in reasons]
    with pytest.raises(InputError) as caught:
        images.refuse_broken(found)
    lines = str(caught.value).splitlines()
    assert lines[0] == "6 images cannot be read:"
    assert lines[1:-1] == [f"  {path}: {reason}" for path, reason in found.items()]
    assert lines[-1] == "Repair or remove them, or go on without them: on_bad_image=skip"
    assert images.find_broken(paths[:1]) == {}
    images.refuse_broken({})


def test_files_that_were_good_are_not_decoded_again(tmp_path, monkeypatch):
    broken_files(tmp_path)
    paths = [str(tmp_path / name) for name in ("whole.jpg", "whole.png", "empty.jpg")]
    memory = tmp_path / "memory" / "good.json"
    first = images.find_broken(paths, memory)
    decoded = []
    monkeypatch.setattr(images, "try_decode", lambda path: decoded.append(path) or "broken")
    assert images.find_broken(paths, memory) == {paths[2]: "broken"}
    assert decoded == [paths[2]]
    assert list(first) == [paths[2]]
    noisy(seed=1).save(tmp_path / "whole.png")
    assert set(images.find_broken(paths, memory)) == {paths[1], paths[2]}
    memory.write_text("{damaged")
    assert set(images.find_broken(paths, memory)) == set(paths)


def test_a_random_view_depends_on_image_and_index_alone(tiny_backbone):
    picture = noisy()
    one = images.view(tiny_backbone, "coop", 3, "key", picture)
    random.seed(7)
    torch.manual_seed(7)
    assert torch.equal(one, images.view(tiny_backbone, "coop", 3, "key", picture))
    others = [
        images.view(tiny_backbone, "coop", index, key, picture)
        for index, key in [(0, "key"), (1, "key"), (4, "key"), (3, "other")]
    ]
    views = [one, *others]
    assert all(view.shape == (3, 32, 32) for view in views)
    assert len({view.numpy().tobytes() for view in views}) == 5


def test_the_centre_view_is_the_transform_of_open_clip(tiny_backbone):
    model = tiny_backbone.model.visual
    transform = image_transform_v2(PreprocessCfg(**model.preprocess_cfg), is_train=False)
    for size in ((40, 30), (31, 64), (32, 32)):
        picture = noisy(*size)
        expected = transform(picture)
        assert torch.equal(images.view(tiny_backbone, "coop", -1, "key", picture), expected)
        assert torch.equal(images.view(tiny_backbone, "none", 5, "key", picture), expected)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (300, 300)])
def test_crops_cover_the_shares_and_ratios_of_the_recipe(width, height):
    stream = random.Random(0)
    boxes = np.array([images._random_box(width, height, stream) for _ in range(4000)])
    left, top, right, bottom = boxes.T
    w, h = right - left, bottom - top
    assert (left >= 0).all() and (top >= 0).all()
    assert (right <= width).all() and (bottom <= height).all()
    share, ratio = w * h / (width * height), w / h
    assert 0.078 <= share.min() < 0.10
    assert 0.93 < share.max() <= 1.0
    assert 0.73 <= ratio.min() < 0.77
    assert 1.30 < ratio.max() <= 1.35
    if width == height:  # a wide image refuses more of the tall crops than of the wide ones
        assert abs(np.log(ratio).mean()) < 0.02
    # Shares are uniform where no crop is refused for leaving the image.
    small = share[share < 0.4]
    assert np.histogram(small, bins=4, range=(0.08, 0.4))[0].std() / (len(small) / 4) < 0.1


def test_an_image_too_long_for_any_crop_gives_its_middle():
    assert images._random_box(1000, 10, random.Random(0)) == (495, 0, 505, 10)
    assert images._random_box(10, 1000, random.Random(0)) == (0, 495, 10, 505)


def test_half_of_the_random_views_are_mirrored():
    picture = noisy(64, 64)
    backbone = SimpleNamespace(image_size=32, preprocess=lambda image: np.asarray(image))
    mirrored = 0
    for index in range(200):
        stream = random.Random(f"key/{index}")
        box = images._random_box(64, 64, stream)
        plain = np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC, box=box))
        made = images.view(backbone, "coop", index, "key", picture)
        flipped = np.array_equal(made, plain[:, ::-1])
        assert flipped or np.array_equal(made, plain)
        mirrored += flipped
    assert 70 < mirrored < 130
