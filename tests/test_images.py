"""Decoding of every kind of file, and the views of an image."""

import numpy as np
import pytest
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
