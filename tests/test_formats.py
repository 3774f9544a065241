"""Every kind of image file: what its pixels are, through whichever door, and what is said of it."""

from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from clip_adapt.data import decoding, scan
from clip_adapt.data.formats import depth, jpeg, kinds, orientation
from clip_adapt.data.formats.limits import Unusable
from clip_adapt.data.inventory import list_counts
from clip_adapt.errors import InputError
from clip_adapt.inputs.views import make_centre_view
from clip_adapt.pages import pictures

SIZE = (260, 210)


def noisy(width=SIZE[0], height=SIZE[1], seed=0):
    """Return a picture of coarse noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 7, width // 7, 3))
    return Image.fromarray(coarse.astype(np.uint8)).resize((width, height))


def save(picture, kind, **how):
    """Return the bytes of a file."""
    held = io.BytesIO()
    picture.save(held, kind, **how)
    return held.getvalue()


def ramp(bits, shape=(48, 64)):
    """Return values from 0 to the highest of so many bits."""
    row = np.arange(shape[1]) * ((1 << bits) - 1) // (shape[1] - 1)
    return np.tile(row, (shape[0], 1)).astype(np.uint16)


# 16 bits that are not used up.


@pytest.mark.parametrize("bits", depth.BITS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_by_what_they_use(bits, kind):
    seen = decoding.try_examine(save(Image.fromarray(ramp(bits)), kind))
    expected = np.floor(ramp(bits) * 255.0 / ((1 << bits) - 1) + 0.5)
    assert np.array_equal(np.asarray(seen.image)[..., 1], expected)
    assert seen.bits == (0 if bits == 16 else bits)
    # An array of the same numbers is the same picture.
    assert np.array_equal(decoding.decode(ramp(bits)), seen.image)


@pytest.mark.parametrize(
    ("highest", "bits"),
    [(0, 8), (255, 8), (256, 10), (1023, 10), (1024, 12), (4096, 14), (16384, 16), (65535, 16)],
)
def test_bits_are_those_that_the_highest_value_takes(highest, bits):
    assert depth.find_bits(highest) == bits


def write_png(values):
    """Return a PNG of 16 bits a colour, which Pillow cannot write."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    kind = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2]]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_colours_of_fewer_bits_are_not_cut_to_their_upper_byte(bits, channels):
    values = np.random.default_rng(0).integers(0, 1 << bits, (20, 30, channels))
    values[0, 0] = (1 << bits) - 1
    expected = np.floor(values[..., :3] * 255.0 / ((1 << bits) - 1) + 0.5)
    for file in (write_png(values), io.BytesIO(write_png(values))):
        assert np.array_equal(decoding.decode(file), expected)
    with Image.open(io.BytesIO(write_png(values))) as opened:
        assert np.array_equal(decoding.decode(opened), expected)
    assert decoding.try_examine(write_png(values)).bits == bits


def test_colours_of_all_16_bits_are_their_upper_byte():
    values = np.random.default_rng(0).integers(0, 65536, (20, 30, 3))
    values[0, 0] = 65535
    assert np.array_equal(decoding.decode(write_png(values)), values >> 8)
    dark = np.random.default_rng(0).integers(0, 4096, (20, 30, 2))
    assert "save it without alpha" in decoding.try_decode(write_png(dark))


def write_tiff(values, byteorder="<", planes=False, white_is_zero=False):
    """Return a TIFF of 16 bits, not compressed."""
    colours = values.shape[2] if values.ndim == 3 else 1
    data = (values.transpose(2, 0, 1) if planes else values).astype(f"{byteorder}u2").tobytes()
    photometric = 2 if colours == 3 else int(not white_is_zero)
    strips = [len(data) // colours] * colours if planes else [len(data)]
    entries = [(256, 3, [values.shape[1]]), (257, 3, [values.shape[0]]), (258, 3, [16] * colours),
               (259, 3, [1]), (262, 3, [photometric]), (273, 4, None), (277, 3, [colours]),
               (278, 3, [values.shape[0]]), (279, 4, strips), (284, 3, [1 + planes])]  # fmt: skip
    start = 8 + 2 + 12 * len(entries) + 4
    tail, body = b"", b""
    pixels = start + 64
    for tag, kind, given in entries:
        numbers = given or [pixels + i * strips[0] for i in range(len(strips))]
        packed = struct.pack(f"{byteorder}{len(numbers)}{'HI'[kind == 4]}", *numbers)
        if len(packed) > 4:
            where, tail = start + len(tail), tail + packed
            packed = struct.pack(f"{byteorder}I", where)
        body += struct.pack(f"{byteorder}HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    head = {"<": b"II*\0", ">": b"MM\0*"}[byteorder] + struct.pack(
        f"{byteorder}IH", 8, len(entries)
    )
    return head + body + bytes(4) + tail.ljust(64, b"\0") + data


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_a_tiff_of_16_bits_in_either_byte_order(byteorder):
    values = np.random.default_rng(0).integers(0, 4096, (20, 30, 3))
    values[0, 0] = 4095
    grey, scaled = values[..., 0], np.floor(values * 255.0 / 4095 + 0.5)
    assert np.array_equal(decoding.decode(write_tiff(values, byteorder)), scaled)
    read = np.asarray(decoding.decode(write_tiff(grey, byteorder)))
    assert np.array_equal(read[..., 2], scaled[..., 0])
    assert "in a plane each" in decoding.try_decode(write_tiff(values, byteorder, planes=True))


def test_a_tiff_whose_zero_is_white():
    file = write_tiff(ramp(16), white_is_zero=True)
    assert np.array_equal(np.asarray(decoding.decode(file))[0, [0, -1], 0], [255, 0])


def test_floats_from_0_to_1_are_grey_and_others_are_refused():
    shares = np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(48, 64)
    read = np.asarray(decoding.decode(save(Image.fromarray(shares), "TIFF")))
    assert np.array_equal(read[..., 0], np.rint(shares * 255))
    for others in (shares * 255, shares - 0.5, np.full_like(shares, np.nan)):
        reason = decoding.try_decode(save(Image.fromarray(others), "TIFF"))
        assert "have no known range, as floats from 0 to 1 have" in reason


def test_what_a_scan_says_of_depths_and_pages(tmp_path):
    pages = [noisy(20, 20, seed) for seed in range(3)]
    files = {
        "a.png": save(Image.fromarray(ramp(12)), "PNG"),
        "b.png": save(Image.fromarray(ramp(10)), "PNG"),
        "c.png": save(Image.fromarray(ramp(12)), "PNG"),
        "d.png": save(Image.fromarray(ramp(16)), "PNG"),
        "e.tif": save(pages[0], "TIFF", save_all=True, append_images=pages[1:]),
        "f.png": save(pages[0], "PNG"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    for _ in range(2):  # looked at, and remembered
        survey = scan.survey_images([str(tmp_path / name) for name in files], tmp_path / "cache")
        assert survey.bits.tolist() == [12, 10, 12, 0, 0, 0]
        assert survey.several.tolist() == [False] * 4 + [True, False]
        assert scan.describe_depths(survey) == [
            "3 files of 16 bits use fewer and are scaled by what they use, each by its own highest "
            "value: 1 of 10, 2 of 12 bits",
            "1 files hold several frames or pages: the first is read",
        ]
    assert scan.describe_depths(scan.survey_images([str(tmp_path / "f.png")])) == []


def test_modes_that_pillow_does_not_convert_itself():
    alpha = Image.new("LA", (8, 8), (90, 255)).convert("La")
    palette = Image.new("P", (8, 8))
    palette.putpalette([200, 40, 30] * 256)
    see_through = save(palette, "PNG", transparency=bytes(256))  # Pillow warns, and tests fail
    assert decoding.decode(alpha).getpixel((3, 3)) == (90, 90, 90)
    assert decoding.decode(see_through).getpixel((3, 3)) == (200, 40, 30)


# One file, one result.


def exif(*entries, tail=b""):
    """Return EXIF of tags (tag, type, count, four bytes)."""
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    head = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries))
    return head + body + struct.pack("<I", 0) + tail


TURNED = (0x112, 3, 1, struct.pack("<HH", 6, 0))
DAMAGED = {
    "resolution -1/0": exif(
        TURNED, (0x11A, 10, 1, struct.pack("<I", 38)), tail=struct.pack("<ii", -1, 0)
    ),
    "resolution as text": exif(TURNED, (0x11A, 2, 3, b"72\0\0")),
    "resolution as bytes": exif(TURNED, (0x11A, 7, 1, b"\xff\0\0\0")),
    "resolution NaN": exif(TURNED, (0x11A, 12, 1, struct.pack("<I", 38)), tail=b"\xff" * 8),
    "a tag in itself": exif(TURNED, (0x8769, 4, 1, struct.pack("<I", 8))),
    "a tag of no type": exif(TURNED, (0x11A, 99, 1, bytes(4))),
    "a pointer to nowhere": exif(TURNED, (0x8825, 4, 1, struct.pack("<I", 99999))),
}
UPRIGHT = {
    "no such turn": exif((0x112, 3, 1, struct.pack("<HH", 9, 0))),
    "turned as text": exif((0x112, 2, 2, b"6\0\0\0")),
    "no tags": b"Exif\0\0garbage",
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("name", [*DAMAGED, *UPRIGHT])
@pytest.mark.filterwarnings("ignore")  # Pillow's, of corrupt EXIF
def test_one_file_gives_one_result_whatever_its_tags_are(kind, name, tmp_path, monkeypatch):
    data = save(noisy(), kind, exif=(DAMAGED | UPRIGHT)[name])
    path = tmp_path / "a.png"  # whatever it is called
    path.write_bytes(data)
    with Image.open(io.BytesIO(data)) as opened:
        doors = [path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), opened]
        loaded = [decoding.load(door) for door in doors]
    loaded.append(decoding.load(np.asarray(decoding.decode(path))))
    monkeypatch.setattr(jpeg, "find_decoder", lambda: None)
    loaded.append(decoding.load(path))
    assert loaded[0].shape == (3, *(SIZE if name in DAMAGED else SIZE[::-1]))
    assert all(torch.equal(image, loaded[0]) for image in loaded)
    with Image.open(io.BytesIO(_decode_uri(pictures._make_thumbnail(str(path))))) as thumbnail:
        assert (thumbnail.height > thumbnail.width) == (name in DAMAGED)


def _decode_uri(uri):
    import base64

    return base64.b64decode(uri.partition(",")[2])


def test_a_small_file_gives_one_view_through_every_door(tiny_backbone):
    for size in ((60, 40), (199, 200), (200, 200), (250, 200), (90, 500)):
        for kind in ("JPEG", "PNG"):
            data = save(noisy(*size), kind)
            doors = [data, Image.open(io.BytesIO(data)), np.asarray(decoding.decode(data))]
            doors += [torch.from_numpy(doors[2].copy()), torch.from_numpy(doors[2] / 255.0)]
            views = [make_centre_view(tiny_backbone, decoding.load(door)) for door in doors]
            assert all(torch.equal(view, views[0]) for view in views), (size, kind)


@pytest.mark.parametrize("value", orientation.TURNS)
def test_pixels_are_turned_as_pictures_are(value):
    picture = noisy(12, 8)
    turned = orientation.turn_picture(picture, value)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    assert np.array_equal(orientation.turn_pixels(pixels, value).permute(1, 2, 0), turned)


def test_a_jpeg_whose_segments_cannot_be_followed_goes_through_pillow():
    data = save(noisy(), "JPEG")
    assert jpeg.hide_exif(data) == data  # there is none
    assert jpeg.hide_exif(data[:2] + b"\0" + data[2:]) is None
    assert jpeg.hide_exif(data[:20]) is None


# What is given in Python.


@pytest.mark.parametrize("make", [np.asarray, torch.tensor])
def test_axes_and_numbers_of_arrays(make):
    rgb = np.asarray(noisy(12, 8))
    same = [rgb, rgb.transpose(2, 0, 1), rgb / 255, (rgb / 255).astype(np.float32)]
    same += [np.concatenate([rgb, rgb[..., :1]], axis=2)]
    for array in same:
        assert np.array_equal(decoding.decode(make(np.ascontiguousarray(array))), rgb)
    grey = rgb[..., 0]
    for array in (grey, grey[..., None], grey[None], grey / 255):
        assert np.array_equal(np.asarray(decoding.decode(make(array)))[..., 2], grey)
    assert np.array_equal(np.asarray(decoding.decode(make(grey > 99)))[..., 0], (grey > 99) * 255)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((0, 0, 3), np.uint8), "0 x 0 pixels: too small"),
        (np.zeros((1, 1, 3), np.uint8), "1 x 1 pixels: too small"),
        (np.zeros((1000, 5, 3), np.uint8), "5 x 1000 pixels: more than 50 times as long"),
        (np.zeros((4, 40, 4), np.uint8), "either axis may hold the colours"),
        (np.zeros((8, 8, 3), np.int64), "not int64: where its numbers go from 0 to 255, give"),
        (np.full((8, 8, 3), 200.0), "its values, 200 to 200, have no known range"),
        (np.zeros((8, 8), complex), "not complex128"),
    ],
)
def test_arrays_that_are_no_picture(array, reason):
    for given in (array, torch.from_numpy(array)):
        with pytest.raises(InputError) as caught:
            decoding.decode(given)
        assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_object_is_read_from_its_start_and_left_where_it_was(tmp_path):
    path = tmp_path / "a.png"
    noisy().save(path)
    with open(path, "rb") as file:
        file.seek(33)
        first = decoding.decode(file)
        assert file.tell() == 33
        assert np.array_equal(first, decoding.decode(file))
    with (
        open(path, encoding="latin-1") as file,
        pytest.raises(InputError, match='opened with "rb"'),
    ):
        decoding.decode(file)
    file.close()
    with pytest.raises(InputError, match="this file object cannot be read"):
        decoding.decode(file)


@pytest.mark.parametrize("given", [b"", b"no image at all", None, 3, ["a.png"], {"image": "a.png"}])
def test_a_message_names_the_type_and_never_the_content(given):
    with pytest.raises(InputError) as caught:
        decoding.decode(given)
    said = str(caught.value)
    assert "\n" not in said and "no image at all" not in said and "a.png" not in said


# Kinds that are read by an extra, or by a library that may be missing.


def test_a_file_whose_extra_is_missing_says_which(tmp_path, monkeypatch):
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
    files = {"a.heic": heic, "b.jpg": heic, "c.dcm": bytes(128) + b"DICM" + bytes(99)}
    monkeypatch.setattr(kinds, "find_spec", lambda name: None)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        extra = "dicom" if name == "c.dcm" else "heic"
        reason = decoding.try_decode(tmp_path / name)
        assert reason.endswith(f" file: pip install 'clip-adapt[{extra}]' reads this kind")
    assert decoding.explain_suffix(".HEIC") == "pip install 'clip-adapt[heic]' reads this kind"
    assert decoding.explain_suffix(".txt") is None
    assert list_counts({".heic": 1, "Thumbs.db": 6, ".dcm": 2}) == (
        "2 .dcm (pip install 'clip-adapt[dicom]' reads this kind), "
        "1 .heic (pip install 'clip-adapt[heic]' reads this kind), 6 Thumbs.db"
    )


def test_a_kind_that_this_pillow_has_no_library_for(monkeypatch):
    monkeypatch.setattr(kinds.features, "check", lambda name: False)
    for name, kind in (("AVIF", "AVIF"), ("WebP", "WEBP"), ("JPEG 2000", "JPEG2000")):
        reason = f"this Pillow was built without {name}: pip install -U pillow"
        assert decoding.try_decode(save(noisy(), kind)) == reason
    assert not isinstance(decoding.try_decode(save(noisy(), "PNG")), str)


def test_heic_is_read_as_by_its_own_plugin_and_pillow_stays_as_it_is(monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif")
    picture, held, tags = noisy(), io.BytesIO(), Image.Exif()
    tags[0x112] = 6  # of no weight: such a file says by a box of its own how it is turned
    with monkeypatch.context() as patch:
        for name in ("OPEN", "SAVE", "SAVE_ALL", "EXTENSION", "MIME"):
            patch.setattr(Image, name, dict(getattr(Image, name)))
        patch.setattr(Image, "ID", list(Image.ID))
        pillow_heif.register_heif_opener()
        picture.save(held, "HEIF", quality=95, exif=tags)
        with Image.open(io.BytesIO(held.getvalue())) as opened:
            expected = decoding.load(opened)
    assert torch.equal(decoding.load(held), expected)
    seen = decoding.try_examine(held.getvalue())
    assert np.abs(np.asarray(seen.image, int) - np.asarray(picture)).mean() < 12
    assert not seen.several and "HEIF" not in Image.OPEN
    assert decoding.try_decode(held.getvalue()[:400]).startswith("damaged: ")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(pillow_heif.HeifFile, "to_pillow", lambda self: pytest.fail("decoded"))
    assert "decompression bomb" in decoding.try_decode(held.getvalue())


def write_dicom(values, kind="MONOCHROME2", stored=None, change=lambda header: None, **tags):
    """Return a DICOM file of an array."""
    pydicom = pytest.importorskip("pydicom")
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    frames, bits = tags.get("NumberOfFrames", 1), values.dtype.itemsize * 8
    sides = values.shape[1:] if frames > 1 else values.shape
    header.Rows, header.Columns = sides[:2]
    header.SamplesPerPixel = 3 if len(sides) == 3 else 1
    header.PlanarConfiguration, header.PhotometricInterpretation = 0, kind
    header.BitsAllocated, header.BitsStored = bits, stored or bits
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = int(values.dtype.kind == "i")
    for name, value in tags.items():
        setattr(header, name, value)
    header.PixelData = values.tobytes()
    header["PixelData"].VR = "OW" if bits > 8 else "OB"
    change(header)
    held = io.BytesIO()
    header.save_as(held, enforce_file_format=True)
    return held.getvalue()


EIGHT = np.tile(np.arange(64) * 4, (48, 1)).astype(np.uint8)
TWELVE = ramp(12)
COLOURS = np.stack([EIGHT, 255 - EIGHT, EIGHT * 0 + 7], axis=2)


def linear(values, centre, width):
    """Return what a window shows, by the standard's formula (PS3.3, C.11.2.1.2.1)."""
    return np.rint(np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 255)


@pytest.mark.parametrize(
    ("expected", "given"),
    [
        (EIGHT, {"values": EIGHT}),
        (255 - EIGHT, {"values": EIGHT, "kind": "MONOCHROME1"}),
        (np.rint(TWELVE * 255.0 / 4095), {"values": TWELVE, "stored": 12}),
        (np.rint(TWELVE * 255.0 / 4095), {"values": TWELVE}),  # in 16 bits, as files are
        (np.rint(ramp(16) * 255.0 / 65535), {"values": ramp(16)}),
        (np.rint(TWELVE * 255.0 / 4095), {"values": TWELVE.astype(np.int16) - 1024}),
        (
            linear(TWELVE - 1024.0, 40, 400),
            {"values": TWELVE, "stored": 12, "RescaleSlope": 1, "RescaleIntercept": -1024,
             "WindowCenter": [40, 600], "WindowWidth": [400, 2000]},
        ),
        (
            np.rint(255 / (1 + np.exp(-4 * (TWELVE - 2048.0) / 900))),
            {"values": TWELVE, "stored": 12, "WindowCenter": 2048, "WindowWidth": 900,
             "VOILUTFunction": "SIGMOID"},
        ),
        ((TWELVE >= 2048) * 255,
         {"values": TWELVE, "stored": 12, "WindowCenter": 2048, "WindowWidth": 1}),
        (EIGHT, {"values": np.stack([EIGHT, EIGHT * 0]), "NumberOfFrames": 2}),
    ],
)  # fmt: skip
def test_a_grey_dicom_is_shown_as_the_standard_says(expected, given):
    seen = decoding.try_examine(write_dicom(**given))
    assert np.array_equal(seen.image, np.stack([expected] * 3, axis=2))
    assert seen.several == ("NumberOfFrames" in given)


def test_a_coloured_dicom_is_rgb():
    assert np.array_equal(decoding.decode(write_dicom(COLOURS, "RGB")), COLOURS)
    grey = np.stack([EIGHT, EIGHT * 0 + 128, EIGHT * 0 + 128], axis=2)  # YBR without colour
    read = np.asarray(decoding.decode(write_dicom(grey, "YBR_FULL")))
    assert np.array_equal(read, np.stack([EIGHT] * 3, axis=2))


def test_a_window_of_a_file_of_frames_is_that_of_the_first():
    pydicom = pytest.importorskip("pydicom")

    def group(header):
        window, frame = pydicom.Dataset(), pydicom.Dataset()
        window.WindowCenter, window.WindowWidth = 2048, 1000
        frame.FrameVOILUTSequence = [window]
        header.PerFrameFunctionalGroupsSequence = [frame]

    read = decoding.decode(write_dicom(TWELVE, stored=12, change=group))
    assert np.array_equal(np.asarray(read)[..., 0], linear(TWELVE, 2048, 1000))


def set_syntax(name):
    """Return a change of a header: another transfer syntax, with what is no such stream."""

    def change(header):
        import pydicom

        header.file_meta.TransferSyntaxUID = getattr(pydicom.uid, name)
        if header.file_meta.TransferSyntaxUID.is_compressed and name[0] != "D":
            header.PixelData = pydicom.encaps.encapsulate([b"no such stream"])
            header["PixelData"].VR = "OB"

    return change


@pytest.mark.parametrize(
    ("reason", "given"),
    [
        ("JPEG-LS Lossless Image Compression: pip install pylibjpeg", set_syntax("JPEGLSLossless")),
        ("DICOM pixels as MPEG2 Main Profile / Main Level: not read", set_syntax("MPEG2MPML")),
        ("JPEG Baseline (Process 1): damaged, or of a kind that", set_syntax("JPEGBaseline8Bit")),
        ("deflated as a whole: save it without", set_syntax("DeflatedExplicitVRLittleEndian")),
        ("a DICOM file without a picture", lambda header: header.__delattr__("Rows")),
        ("damaged: ", lambda header: header.__delattr__("PixelData")),
        ("more than 89478485 pixels: refused", lambda header: header.update(
            {"Rows": 60000, "Columns": 60000})),
        ("whose colours are HSV: not read", lambda header: header.update(
            {"PhotometricInterpretation": "HSV"})),
        ("palette is missing or in segments", lambda header: header.update(
            {"PhotometricInterpretation": "PALETTE COLOR"})),
    ],
)  # fmt: skip
def test_a_dicom_that_cannot_be_shown_says_why(reason, given):
    said = decoding.try_decode(write_dicom(EIGHT, change=given))
    assert reason in said and "\n" not in said


def test_a_dicom_that_is_cut_or_absurd_is_refused():
    whole = write_dicom(EIGHT)
    for length in (140, 300, len(whole) - 999):
        assert isinstance(decoding.try_decode(whole[:length]), str)
    assert "too small" in decoding.try_decode(write_dicom(EIGHT[:2, :2].copy()))


def test_filters_of_warnings_stay_as_they_were(tmp_path, monkeypatch):
    for seed in range(20):
        noisy(20, 20, seed).save(tmp_path / f"{seed}.png")
    for name in [name for name in sys.modules if name.partition(".")[0] == "imagehash"]:
        monkeypatch.delitem(sys.modules, name)
    before = list(warnings.filters)
    scan.survey_images([str(path) for path in tmp_path.glob("*.png")])
    assert warnings.filters == before


def test_what_is_unusable_is_never_a_traceback():
    def fail():
        raise Unusable("so it is")

    assert decoding._guard(fail) == "so it is"
    assert decoding._guard(lambda: 1 // 0).startswith("damaged: ")
    assert decoding._guard(lambda: struct.unpack("<H", b"")).startswith("damaged: ")
    with pytest.raises(MemoryError):
        decoding._guard(lambda: (_ for _ in ()).throw(MemoryError()))
