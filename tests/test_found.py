"""What is found in the data is said before training, and kept."""

import json
import logging

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len

import clip_adapt
from clip_adapt.data.inventory import list_counts
from clip_adapt.pages.found import list_facts, write_found
from clip_adapt.runs.shared import Shared


@pytest.fixture(scope="module")
def untidy(make_folder, tmp_path_factory):
    """A folder with brackets in a class's name, other files, a broken image, three sizes."""
    names = ("cat [red]", "dog", "[b]eel")
    root = make_folder(tmp_path_factory.mktemp("found") / "mine", ("Train", "Test"), names, 4)
    for number, side in enumerate((300, 44, 42)):
        pixels = np.random.default_rng(number).integers(0, 256, (20, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "Train" / "dog" / f"more {number}.png")
    (root / "Train" / "dog" / "Thumbs.db").write_bytes(b"x")
    (root / "Test" / "dog" / "broken.png").write_bytes(b"x")
    for number in range(2):
        (root / "Test" / "dog" / f"{number}.xyz").write_bytes(b"x")
    return root


FOUND = {
    "dataset": "mine",
    "classes": {
        "[b]eel": {"train": 4, "val": 0, "test": 4},
        "cat [red]": {"train": 4, "val": 0, "test": 4},
        "dog": {"train": 7, "val": 0, "test": 4},
    },
    "total": {"train": 15, "val": 0, "test": 12},
    "groups": None,
    "columns": {},
    "ignored": {"Thumbs.db": 1, ".xyz": 2},
    "unreadable": 1,
    "pixels": {"smallest": [42, 20], "median": [40, 40], "largest": [300, 20]},
}
SHOWN = """\
found: mine, 3 classes, 27 images
            train   val  test
  [b]eel        4     0     4
  cat [red]     4     0     4
  dog           7     0     4
  total        15     0    12
  groups: none are known, so images of one patient may stand in two splits
  pixels: 42 x 20 to 300 x 20, median 40 x 40
  ignored: 2 .xyz, 1 Thumbs.db
  unreadable and left out: 1"""


def test_a_run_says_what_it_found_and_keeps_it(untidy, train_tiny, tmp_path, caplog):
    code, _, err = train_tiny(untidy, "method=zero_shot", "on_bad_image=skip")
    assert code == 0, err
    assert SHOWN in caplog.messages
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["found"] == FOUND
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Data: 15 images to train on, 0 to choose by, 12 to test on" in page
    assert '<tr><th scope="row">cat [red]</th><td class="num">4</td>' in page
    assert "ignored: 2 .xyz, 1 Thumbs.db" in page


def test_what_a_source_says_of_its_reading_is_a_note(make_folder, train_tiny, tmp_path, caplog):
    root = make_folder(tmp_path / "deep", (), ("cat", "dog"), 8)
    (root / "cat" / "more").mkdir()
    (root / "cat" / "0.png").rename(root / "cat" / "more" / "0.png")
    code, _, err = train_tiny(root, "method=zero_shot")
    assert code == 0, err
    note = "images in folders below a class are read as images of that class: cat (more)"
    assert note in caplog.text
    assert note in json.loads((tmp_path / "out" / "metrics.json").read_text())["notes"]


def test_python_says_it_where_messages_go(animals, tiny_model, caplog):
    caplog.set_level(logging.INFO, "clip_adapt")
    clip_adapt.adapt(animals, method="zero_shot", model=tiny_model, tensorboard=False, output="o")
    (said,) = [m for m in caplog.messages if m.startswith("found: animals, 3 classes, 54 images\n")]
    assert "\n  cat       6     6     6\n" in said
    assert said.endswith("\n  pixels: all 40 x 40")


def test_what_runs_of_one_process_have_in_common_is_said_once(caplog):
    caplog.set_level(logging.INFO, "clip_adapt")
    shared = Shared()
    for text in ("one", "one", "two"):
        shared.say_once(text)
    assert caplog.messages == ["one", "two"]


def make_found(names, **others):
    """Return what is found of classes of these names, with as many training images as they come."""
    classes = {name: {"train": n, "val": 0, "test": 1} for n, name in enumerate(names, 1)}
    total = {split: sum(c[split] for c in classes.values()) for split in ("train", "val", "test")}
    return {**FOUND, "classes": classes, "total": total, **others}


def test_hundreds_of_classes_are_folded():
    lines = write_found(make_found([f"class {n}" for n in range(300)]), 80).splitlines()
    assert len(lines) == 1 + 1 + 10 + 1 + 1 + 4
    assert lines[0] == "found: mine, 300 classes, 45,450 images"
    assert lines[12] == "  ... and 290 more classes, 11 to 300 images to train on"
    assert lines[13].split() == ["total", "45,150", "0", "300"]
    every = write_found(make_found([f"class {n}" for n in range(24)]), 80).splitlines()
    assert len(every) == 1 + 1 + 24 + 1 + 4


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_is_wide_enough(width):
    names = ["狗" * 40, "x" * 90, "a\nb", "\x1b[31mred"]
    groups = {"train": 1200, "val": 30, "test": 400}
    columns = {"image": "Path of the image file", "label": "dx", "split": None, "group": None}
    ignored = {f".suffix{n}": n for n in range(1, 12)}
    text = write_found(make_found(names, groups=groups, columns=columns, ignored=ignored), width)
    assert max(map(cell_len, text.splitlines())) <= width
    assert "a\\nb " in text and "\\x1b[31mred " in text
    assert "狗" * 4 in text and "..." in text
    rows = text.splitlines()[1:7]
    assert len({cell_len(row) for row in rows}) == 1


def test_the_facts_of_a_table():
    columns = {"image": "path", "label": "dx", "split": None, "group": None}
    found = {**FOUND, "columns": columns, "groups": {"train": 3, "val": 0, "test": 2}}
    assert list_facts(found)[:2] == [
        "groups: 5 (3 in train, 0 in val, 2 in test), none of them in two splits",
        "columns: image is 'path', label is 'dx', none for split and group",
    ]


def test_captions_have_counts_and_no_classes():
    found = {**FOUND, "classes": {}, "total": {"train": 10, "val": 2, "test": 1}}
    assert write_found(found, 80).splitlines()[:3] == [
        "found: mine, 13 images",
        "        train   val  test",
        "  total    10     2     1",
    ]


def test_counts_in_words():
    assert list_counts({".xcf": 1, "Thumbs.db": 6}) == "6 Thumbs.db, 1 .xcf"
    many = {f".{n}": 20 - n for n in range(9)}
    assert list_counts(many) == "20 .0, 19 .1, 18 .2, 17 .3, 16 .4, 15 .5, 39 others"
