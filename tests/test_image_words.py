"""What the words of predict mean: files, folders, patterns, lists; names of any kind."""

from __future__ import annotations

import codecs
import io
import os
import sys
from pathlib import Path

import pytest

from clip_adapt.adapted.image_words import find_images, split_paths
from clip_adapt.errors import InputError

POSIX = pytest.mark.skipif(os.name != "posix", reason="such names are known there alone")
FILES = (
    "scans/b/2.png",
    "scans/b/10.JPG",
    "scans/a b.tiff",
    "scans/img[1].png",
    "scans/clip.mp4",
    "scans/Thumbs.db",
    "scans/notes.txt",
    "scans/b/notes.txt",
    "scans/README",
    "scans/.hidden.png",
    "scans/.git/x.png",
    "old [2020]/1.png",
    "old [2020]/2.jpeg",
    "i.png",
)
IMAGES = ["scans/a b.tiff", "scans/b/10.JPG", "scans/b/2.png", "scans/img[1].png"]


@pytest.fixture
def scans(tmp_path):
    """A folder as people have them; what lies in the files is looked at elsewhere."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["scans"], IMAGES),
        (["./scans/"], IMAGES),
        (["scans/**"], IMAGES),
        (["scans/b", "i.png", "scans/b/2.png"], [*IMAGES[1:3], "i.png", "scans/b/2.png"]),
        (["scans/**/*.png"], ["scans/b/2.png", "scans/img[1].png"]),
        (["**/*.png"], ["i.png", "old [2020]/1.png", "scans/b/2.png", "scans/img[1].png"]),
        (["scans/*"], IMAGES),
        (["scans/**/*"], IMAGES),
        (["scans/*.png"], ["scans/img[1].png"]),
        (["scans/**.png"], ["scans/img[1].png"]),
        (["scans/b/[12]*"], ["scans/b/10.JPG", "scans/b/2.png"]),
        (["scans/b/?.png"], ["scans/b/2.png"]),
        (["scans/*.mp4"], ["scans/clip.mp4"]),
        (["scans/.h*.png"], ["scans/.hidden.png"]),
        (["scans/img[1].png"], ["scans/img[1].png"]),
        (["old [2020]/*.png"], ["old [2020]/1.png"]),
        (["old [2020]"], ["old [2020]/1.png", "old [2020]/2.jpeg"]),
        (["no.png", "no.png"], ["no.png", "no.png"]),
        (["scans/notes.txt"], ["scans/notes.txt"]),
    ],
)
def test_words_mean_files(scans, words, expected):
    assert find_images(words).paths == expected


def test_what_is_passed_over_is_counted(scans):
    found = find_images(["scans"])
    counted = {".txt": 2, "Thumbs.db": 1, "without a suffix": 1, "hidden .png": 1, ".mp4": 1}
    assert found.ignored == counted
    assert found.describe_ignored().startswith("2 .txt, 1 .mp4, 1 Thumbs.db, 1 hidden .png, ")
    assert find_images(["scans/*.png"]).ignored == {"hidden .png": 1}
    assert find_images(["i.png"]).ignored == {}


def test_videos_are_taken_where_they_are_looked_at(scans):
    assert find_images(["scans"], videos=True).paths[3] == "scans/clip.mp4"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("empty", "empty: no images; ignored: 1 .txt, 1 hidden .png. Images are .*, .bmp, "),
        ("scans/*.xyz", r"scans/\*.xyz: there is no such file, and no file fits it as a pattern"),
        ("scans/img[7].png", "no such file, and no file fits it"),
        ("a\0b", "holds a NUL"),
        (f"{'y' * 5000}*/x", "no file fits it as a pattern"),
    ],
)
def test_words_that_mean_nothing(scans, word, message):
    for name in ("empty/deep/notes.txt", "empty/.x.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("x")
    with pytest.raises(InputError, match=message):
        find_images([word])


@POSIX
def test_a_circle_of_links_is_gone_through_once(scans):
    Path("scans/b/up").symlink_to("..")
    Path("scans/again").symlink_to("b")
    Path("scans/other").symlink_to(Path("old [2020]").absolute())
    Path("scans/gone.png").symlink_to("nothing")
    found = find_images(["scans"])
    again = ["scans/again/10.JPG", "scans/again/2.png"]  # which comes before b
    inside = ["scans/other/1.png", "scans/other/2.jpeg"]
    assert found.paths == [IMAGES[0], *again, IMAGES[3], *inside]
    assert found.ignored["broken links"] == 1
    expected = ["scans/b/2.png", "scans/gone.png", "scans/img[1].png"]
    assert find_images(["scans/**/*.png"]).paths == expected


def test_the_order_is_that_of_names_however_accents_are_written(tmp_path):
    for name in ("s/z.png", "s/e\u0301a.png", "s/\u00e9b.png", "s/B.png", "s/b/1.png", "s/b-1.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("x")
    names = [path.removeprefix("s/") for path in find_images(["s"]).paths]
    assert names == ["B.png", "b/1.png", "b-1.png", "z.png", "e\u0301a.png", "\u00e9b.png"]


@POSIX
def test_names_of_any_bytes(tmp_path):
    for name in (b"s/bad\xff.png", b"s/two\nlines.png", b"s/=1.png"):
        Path("s").mkdir(exist_ok=True)
        Path(os.fsdecode(name)).write_text("x")
    expected = ["s/=1.png", "s/bad\udcff.png", "s/two\nlines.png"]
    assert find_images(["s"]).paths == expected
    assert split_paths(b"s/bad\xff.png\n") == ["s/bad\udcff.png"]
    assert split_paths(b"".join(os.fsencode(p) + b"\0" for p in expected)) == expected


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_a_list_has_a_path_a_line(scans, mark):
    Path("list.txt").write_bytes(mark + "b.png\r\n\n  \nö [1].png\nb.png\n-".encode())
    paths = ["b.png", "ö [1].png", "b.png", "-"]
    assert find_images([], "list.txt").paths == paths
    assert find_images(["i.png"], "list.txt").paths == ["i.png", *paths]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_list_of_windows_powershell_is_read(encoding):
    mark = codecs.BOM_UTF16_LE if encoding == "utf-16-le" else codecs.BOM_UTF16_BE
    assert split_paths(mark + "a.png\r\nö.png\r\n".encode(encoding)) == ["a.png", "ö.png"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.txt", "list=no.txt: No such file or directory \\(looked at /"),
        ("blank.txt", "list=blank.txt holds no paths: one a line is expected"),
        ("scans", "list=scans: Is a directory"),
        (os.devnull, "is not a file: it is a device"),
    ],
)
@POSIX
def test_lists_that_are_none(scans, name, message):
    Path("blank.txt").write_text("\n \n")
    with pytest.raises(InputError, match=message):
        find_images([], name)


def test_paths_come_from_standard_input(monkeypatch):
    for content, expected in ((b"a.png\nb.png\n", ["a.png", "b.png", "c.png"]), (b"\n", None)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        if expected is None:
            with pytest.raises(InputError, match="standard input, and none came"):
                find_images(["-"])
        else:
            assert find_images(["-", "c.png"]).paths == expected
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="standard input, and there is none"):
        find_images(["-"])
