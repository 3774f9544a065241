"""Decoding of every kind of file, and the views of an image."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from clip_adapt.data import decoding
from clip_adapt.data.formats import jpeg
from clip_adapt.errors import InputError
from clip_adapt.pages import pictures

RED, GREY = (200, 40, 30), 90


def noisy(width=40, height=30, seed=0):
    """Return a picture of noise."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff"])
def test_lossless_files_give_their_exact_pixels(tmp_path, suffix):
    picture = noisy()
    picture.save(tmp_path / f"a{suffix}")
    decoded = decoding.decode(tmp_path / f"a{suffix}")
    assert decoded.mode == "RGB"
    assert np.array_equal(np.asarray(decoded), np.asarray(picture))


# Suffixes that Pillow knows by other names, or writes nothing by.
OTHERS = {
    ".jfif": "JPEG",
    ".jpe": "JPEG",
    ".jp2": "JPEG2000",
    ".j2k": "JPEG2000",
    ".jpx": "JPEG2000",
    ".avif": "AVIF",
    ".ppm": "PPM",
    ".pgm": "PPM",
}


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp", ".gif", *OTHERS])
def test_other_files_give_nearly_their_pixels(tmp_path, suffix):
    picture = Image.new("RGB", (40, 30), RED)
    picture.save(tmp_path / f"a{suffix}", OTHERS.get(suffix))
    decoded = decoding.decode(str(tmp_path / f"a{suffix}"))
    assert (decoded.mode, decoded.size) == ("RGB", (40, 30))
    assert np.abs(np.asarray(decoded).astype(int) - RED).max() <= 6


def test_every_suffix_that_counts_as_an_image_is_tried_above():
    tried = {".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg", ".webp", ".gif", *OTHERS}
    read_by_extras = {".heic", ".heif", ".dcm"}  # test_formats.py
    assert tried == decoding.SUFFIXES - read_by_extras


def test_grey_palette_and_alpha_become_rgb(tmp_path):
    Image.new("L", (8, 8), GREY).save(tmp_path / "grey.png")
    Image.new("RGB", (8, 8), RED).quantize(4).save(tmp_path / "palette.png")
    Image.new("RGBA", (8, 8), (*RED, 128)).save(tmp_path / "alpha.png")
    Image.new("LA", (8, 8), (GREY, 0)).save(tmp_path / "grey-alpha.png")
    expected = {"grey": (GREY,) * 3, "palette": RED, "alpha": RED, "grey-alpha": (GREY,) * 3}
    for name, colour in expected.items():
        decoded = decoding.decode(tmp_path / f"{name}.png")
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
        for decoded in (decoding.decode(tmp_path / "a.png"), decoding.decode(opened)):
            assert np.array_equal(np.asarray(decoded), np.asarray(expected))


def test_arrays_and_pil_images_are_taken_as_they_are():
    rgb = np.asarray(noisy())
    assert np.array_equal(np.asarray(decoding.decode(rgb)), rgb)
    assert np.array_equal(np.asarray(decoding.decode(Image.fromarray(rgb))), rgb)
    grey = rgb[..., 0]
    assert np.array_equal(np.asarray(decoding.decode(grey)), np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize(
    ("array", "given"),
    [
        (np.zeros(4, dtype=np.uint8), r"uint8 \(4,\)"),
        (np.zeros((1, 4, 4, 3), dtype=np.uint8), r"uint8 \(1, 4, 4, 3\)"),
        (np.zeros((5, 40, 40), dtype=np.float32), r"float32 \(5, 40, 40\)"),
    ],
)
def test_other_arrays_are_refused_by_type_and_shape(array, given):
    message = rf"an image is \(H, W\), \(H, W, 3\) or \(3, H, W\) of .*, not {given}"
    with pytest.raises(InputError, match=message):
        decoding.decode(array)
    with pytest.raises(InputError, match=message):
        decoding.decode(torch.from_numpy(array))


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
        assert str(decoding.try_decode(path)).startswith(reason), name
        with pytest.raises(InputError) as caught:
            decoding.decode(path)
        assert str(caught.value).startswith(f"{path}: {reason}")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    noisy(40, 30).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert decoding.try_decode(tmp_path / "a.png") == (
        "more than 1000 pixels: refused as a decompression bomb"
    )


def test_broken_files_are_found_and_refused_together(tmp_path):
    reasons = broken_files(tmp_path)
    paths = [str(tmp_path / name) for name in ("whole.jpg", *reasons, "whole.png", "cut.jpg")]
    found = decoding.find_broken(paths)
    assert list(found) == [str(tmp_path / name) for name in reasons]
    with pytest.raises(InputError) as caught:
        decoding.refuse_broken(found)
    lines = str(caught.value).splitlines()
    assert lines[0] == "6 images cannot be read:"
    assert lines[1:-1] == [f"  {path}: {reason}" for path, reason in found.items()]
    assert lines[-1] == "Repair or remove them, or go on without them: on_bad_image=skip"
    assert decoding.find_broken(paths[:1]) == {}
    decoding.refuse_broken({})


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path, suffix):
    values = np.arange(0, 65536, 128, dtype=np.uint16).reshape(16, 32)  # they use all of them
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    decoded = np.asarray(decoding.decode(tmp_path / f"a.{suffix}"))
    expected = np.round(values / 257)
    assert np.array_equal(decoded, np.stack([expected] * 3, axis=-1))
    assert len(np.unique(decoded)) > 250


def test_cmyk_is_converted_as_pillow_does(tmp_path):
    picture = Image.new("CMYK", (16, 12), (0, 200, 200, 30))
    for suffix in ("jpg", "tif"):
        picture.save(tmp_path / f"a.{suffix}")
        decoded = decoding.decode(tmp_path / f"a.{suffix}")
        expected = np.asarray(picture.convert("RGB")).astype(int)
        assert decoded.mode == "RGB"
        assert np.abs(np.asarray(decoded).astype(int) - expected).max() <= 3, suffix


def test_a_bilevel_image_is_black_and_white(tmp_path):
    Image.fromarray(np.eye(8, dtype=bool)).save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(decoding.decode(tmp_path / "a.png"))[..., 1], np.eye(8) * 255)


@pytest.mark.parametrize("suffix", ["gif", "webp", "tif", "png"])
def test_the_first_frame_stands_for_all(tmp_path, suffix):
    frames = [Image.new("RGB", (16, 12), colour) for colour in (RED, (0, 0, 255), (0, 255, 0))]
    more = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **more)
    decoded = np.asarray(decoding.decode(tmp_path / f"a.{suffix}")).astype(int)
    assert np.abs(decoded - RED).max() <= 2


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (3, 100, "3 x 100 pixels: too small to show anything"),
        (1, 1, "1 x 1 pixels: too small to show anything"),
        (10, 501, "10 x 501 pixels: more than 50 times as long as wide"),
        (5000, 4, "5000 x 4 pixels: more than 50 times as long as wide"),
    ],
)
def test_absurd_sizes_are_refused(tmp_path, width, height, reason):
    Image.new("RGB", (width, height)).save(tmp_path / "a.png")
    assert decoding.try_decode(tmp_path / "a.png") == reason
    Image.new("RGB", (width, height)).save(tmp_path / "a.jpg")
    assert decoding.try_load(tmp_path / "a.png") == decoding.try_load(tmp_path / "a.jpg") == reason


def test_values_without_a_range_are_refused(tmp_path):
    Image.fromarray(np.full((8, 8), 1.5, dtype=np.float32)).save(tmp_path / "f.tif")
    Image.fromarray(np.full((8, 8), 70000, dtype=np.int32)).save(tmp_path / "i.tif")
    for name in ("f.tif", "i.tif"):
        reason = decoding.try_decode(tmp_path / name)
        assert "no known range" in reason and reason.endswith("save it with 8 or 16 bits"), reason
    with pytest.raises(InputError, match=r"this image cannot be used: its values, 1\.5 to 1\.5, "):
        decoding.decode(Image.new("F", (8, 8), 1.5))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_large_image_is_loaded_as_its_pixels_and_a_small_one_as_a_picture(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    for size in ((250, 160), (250, 159)):
        noisy(*size).save(tmp_path / f"a.{suffix}", exif=exif)
        loaded = decoding.load(tmp_path / f"a.{suffix}")
        expected = np.asarray(decoding.decode(tmp_path / f"a.{suffix}"))
        assert expected.shape == (250, size[1], 3)
        if size == (250, 159):
            assert np.array_equal(np.asarray(loaded), expected)
        else:
            assert (loaded.dtype, loaded.shape[0]) == (torch.uint8, 3)
            assert np.array_equal(loaded.permute(1, 2, 0), expected)


def jpegs(folder):
    """Paths of JPEG files of every kind that differs in how it is decoded."""
    saved = {f"{o}.jpg": {"exif": Image.Exif()} for o in range(1, 9)}
    for orientation, how in enumerate(saved.values(), start=1):
        how["exif"][0x0112] = orientation
    saved |= {
        f"sub{s}q{q}.jpg": {"subsampling": s, "quality": q} for s in range(3) for q in (30, 95)
    }
    saved |= {"progressive.jpg": {"progressive": True}, "CMYK.jpg": {}, "L.jpg": {}}
    saved |= {"png.jpg": {"format": "PNG"}}  # by its name only
    for name, how in saved.items():
        mode = name.removesuffix(".jpg") if name in ("CMYK.jpg", "L.jpg") else "RGB"
        noisy().resize((261, 207)).convert(mode).save(folder / name, **how)
    return [folder / name for name in saved]


def test_both_decoders_give_the_same_pixels(tmp_path, monkeypatch):
    decoder = jpeg.find_decoder()
    if decoder is None:
        pytest.skip("torchcodec cannot be loaded here")
    seen = []
    monkeypatch.setattr(jpeg, "find_decoder", lambda: lambda p: seen.append(p) or decoder(p))
    paths = jpegs(tmp_path)
    fast = [decoding.load(path) for path in paths]
    assert len(seen) == len(paths) - 1
    monkeypatch.setattr(jpeg, "find_decoder", lambda: None)
    for path, pixels in zip(paths, fast, strict=True):
        assert torch.equal(pixels, decoding.load(path)), path.name
    assert len(seen) == len(paths) - 1


def test_the_fast_decoder_refuses_nothing_that_pillow_can_read(tmp_path, monkeypatch):
    def refuses(path):
        raise RuntimeError("no such kind of JPEG")

    noisy(250, 200).save(tmp_path / "a.jpg")
    expected = decoding.load(tmp_path / "a.jpg")
    monkeypatch.setattr(jpeg, "find_decoder", lambda: refuses)
    assert torch.equal(decoding.load(tmp_path / "a.jpg"), expected)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:7000])
    assert "damaged: image file is truncated" in decoding.try_load(tmp_path / "cut.jpg")


def test_a_picture_of_the_users_is_left_as_it_was():
    picture = noisy()
    decoding.decode(picture).putpixel((0, 0), (1, 2, 3))
    assert picture.getpixel((0, 0)) == noisy().getpixel((0, 0))


def test_decoders_keep_memory_between_images_and_give_it_back(tmp_path):
    Image.new("RGB", (600, 400), "red").save(tmp_path / "red.jpg")
    before = Image.core.get_blocks_max()
    with decoding.open_decoders() as pool:
        kept = Image.core.get_stats()["reused_blocks"]
        sizes = pool.map(lambda path: decoding.decode(path).size, [tmp_path / "red.jpg"] * 40)
        assert set(sizes) == {(600, 400)}
        assert Image.core.get_stats()["reused_blocks"] > kept
    assert Image.core.get_blocks_max() == before
    assert before or not Image.core.get_stats()["blocks_cached"]


@pytest.mark.parametrize("kind", ["EPS", "PCX", "TGA", "SGI", "DDS", "ICO"])
def test_only_kinds_of_photographs_are_opened(kind, tmp_path, monkeypatch):
    # Pillow starts Ghostscript to read PostScript, whatever the file is called.
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho started >> {tmp_path}/started\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    for name in ("evil.png", "evil.jpg"):
        Image.new("RGB", (40, 40), (9, 9, 9)).save(tmp_path / name, kind)
        reason = "this is no image that can be read"
        assert decoding.try_decode(tmp_path / name) == reason
        assert decoding.try_load(tmp_path / name) == reason
        assert pictures._make_thumbnail(str(tmp_path / name)) is None
        with pytest.raises(InputError, match=reason):
            decoding.decode(tmp_path / name)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("kind", decoding.FORMATS)
def test_every_kind_of_photograph_is_opened_whatever_its_name(kind, tmp_path):
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "file", kind)
    image = decoding.decode(tmp_path / "file")
    assert image.size == (40, 30)
    assert np.abs(np.asarray(image, int) - (200, 30, 30)).max() < 12


def test_a_photograph_of_two_pictures_is_its_first(tmp_path):
    # Telephones write such files (MPO) as .jpg.
    first, second = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert decoding.decode(tmp_path / "a.jpg").getpixel((20, 15))[0] > 240
