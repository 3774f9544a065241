"""External validation: what a data set holds is measured on, but for what a delta has seen."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_adapt.adapted import delta
from clip_adapt.data import Dataset, scan
from clip_adapt.data.items import Item
from clip_adapt.data.seen import SEEN, SeenImages, read_seen
from clip_adapt.errors import InputError
from clip_adapt.evaluation.tested import choose_tested
from clip_adapt.system.tensor_files import write_tensors

NAMES = ("cat", "dog", "eel")


@pytest.fixture
def evaluate(run_cli):
    """A function that measures a delta: its result."""

    def run(adapter, dataset, *words):
        given = (f"dataset={dataset}", "model=tiny.yaml", "json=true", "output=measured", *words)
        code, out, err = run_cli("evaluate", f"{adapter}/adapter", *given)
        assert code == 0, err
        return json.loads(out)

    return run


@pytest.fixture
def adapter(train_tiny, animals):
    code, _, err = train_tiny(animals, "method=gda")
    assert code == 0, err
    return "out"


def measured_paths():
    with open("measured/predictions.csv", encoding="utf-8", newline="") as file:
        return [row["path"] for row in csv.DictReader(file)]


def write_rows(name, head, rows):
    Path(name).write_text("\n".join([head, *(",".join(row) for row in rows)]) + "\n")


def test_a_data_set_of_any_form_is_measured_whole(adapter, evaluate, make_folder, run_cli):
    make_folder("ext", splits=(), per_class=3, seed=5)
    make_folder("only", splits=("test",), per_class=3, seed=5)
    rows = [(f"ext/{n}/{i}.png", n) for n in NAMES for i in range(3)]
    write_rows("ext.csv", "path,label,split", [(*row, "test") for row in rows])
    write_rows("odd.csv", "file_name,what", rows)
    odd = ("dataset.image=file_name", "dataset.label=what")
    results = {
        name: evaluate(adapter, name, *words)
        for name, words in (("ext", ()), ("only", ()), ("ext.csv", ()), ("odd.csv", odd))
    }
    for name, result in results.items():
        split = "test" if name in ("only", "ext.csv") else "all"
        images = {"split": split, "found": 9, "measured": 9, "left_out": {}}
        assert (result["images"], result["n_test"]) == (images, 9), name
        assert result["test"] == results["only"]["test"], name
    code, _, err = run_cli("evaluate", f"{adapter}/adapter", "dataset=odd.csv", "dataset.imag=x")
    assert code == 2 and "unknown option 'dataset.imag' - did you mean 'dataset.image'?" in err


def test_one_class_alone_and_every_split(adapter, evaluate, make_folder, run_cli):
    make_folder("lone", splits=(), classes=("dog",), per_class=4, seed=5)
    result = evaluate(adapter, "lone")
    assert (result["n_test"], result["per_class"]["cat"]["support"]) == (4, 0)
    assert result["test"]["auroc"]["value"] is None
    assert result["notes"][0].startswith("all test images are of one class, 'dog'")
    make_folder("parts", splits=("train", "val"), per_class=2, seed=5)
    for split, count in (("train", 6), ("val", 6), ("all", 12)):
        assert evaluate(adapter, "parts", f"split={split}")["n_test"] == count
    code, _, err = run_cli("evaluate", "out/adapter", "dataset=parts", "model=tiny.yaml")
    assert (code, err) == (
        2,
        "error: parts has no images of the split test; it has train (6 images) and val (6 images): "
        "measure on one of these, or split=all\n",
    )


def test_what_a_delta_has_seen_is_left_out(train_tiny, evaluate, make_folder, run_cli):
    make_folder("d", splits=(), per_class=10)
    code, _, err = train_tiny("d", "method=gda")
    assert code == 0, err
    metrics = json.loads(Path("out/metrics.json").read_text())
    assert evaluate("out", "d", "split=test")["test"] == metrics["test"]  # as it was trained
    make_folder("more", splits=(), per_class=4, seed=7)
    for name in NAMES:
        for i in range(4):
            shutil.copy(f"more/{name}/{i}.png", f"d/{name}/new {i}.png")
    rows = [json.loads(line) for line in Path("out/support.jsonl").read_text().splitlines()]
    result = evaluate("out", "d")
    assert result["images"]["left_out"] == {"train": 6, "val": 3}
    assert (result["images"]["found"], result["n_test"]) == (42, 33)
    assert {row["path"] for row in rows}.isdisjoint(measured_paths())
    _, out, _ = run_cli("evaluate", "out/adapter", "dataset=d", "model=tiny.yaml")
    assert "measured on 33 of 42 images: 6 were trained on, 3 were validated on" in out
    # The same pixels in another format, and nothing else: refused.
    for row in rows:
        folder = Path("seen", row["label"])
        folder.mkdir(parents=True, exist_ok=True)
        Image.open(row["path"]).save(folder / f"{row['sha256'][:9]}.bmp")
    code, _, err = run_cli("evaluate", "out/adapter", "dataset=seen", "model=tiny.yaml")
    assert (code, err) == (
        2,
        "error: no image of seen is left to measure on: of 9 images 6 were trained on, 3 were "
        "validated on. Give images that the delta has not seen.\n",
    )


def test_a_run_leaves_out_of_test_on_what_it_learns_from(train_tiny, make_folder, tmp_path):
    root = make_folder("d", per_class=3)
    other = make_folder("other", splits=(), classes=("cat", "owl"), per_class=3, seed=5)
    shutil.copytree(root / "train" / "cat", other / "cat", dirs_exist_ok=True)
    words = ("protocol=cross_dataset", "test_on=other", "shots=3")
    code, _, err = train_tiny(root, *words)
    assert code == 0, err
    written = json.loads(Path("out/metrics.json").read_text())
    assert written["other"]["other"]["n_test"] == 3
    assert "other: measured on 3 of 6 images: 3 were trained on" in written["notes"]


def test_a_list_is_that_of_its_delta(adapter, evaluate, animals, run_cli, train_tiny):
    code, _, err = train_tiny(animals, "method=gda", "seed=2", "output=other")
    assert code == 0, err
    words = ("evaluate", "out/adapter", f"dataset={animals}", "model=tiny.yaml")
    place = Path("out/adapter", SEEN)
    whole = place.read_bytes()
    assert b"png" not in whole and b"cat" not in whole
    place.write_bytes(Path("other/adapter", SEEN).read_bytes())
    code, _, err = run_cli(*words)
    assert code == 2 and "is not the list of the images that out/adapter/adapter.safet" in err
    place.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    code, _, err = run_cli(*words)
    assert code == 2 and f"{place} is damaged" in err
    place.unlink()
    (note,) = evaluate("out", animals)["notes"]
    assert note.startswith("which images out was trained on is not known, since its folder has no")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"test": np.zeros((1, 48), np.uint8)}, "unknown role 'test'"),
        ({"train": np.zeros((1, 32), np.uint8)}, "train holds no digests of images"),
        ({"train": np.zeros(48, np.uint8)}, "train holds no digests of images"),
        ({"train": np.zeros((1, 48), np.float32)}, "train holds no digests of images"),
    ],
)
def test_a_list_of_something_else_is_refused(tmp_path, rows, message):
    made = SeenImages(rows)
    write_tensors(tmp_path / SEEN, made._to_tensors(), {})
    with pytest.raises(InputError, match=message):
        read_seen(tmp_path / delta.FILE, made.sha256)


def test_a_list_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("clip_adapt.data.seen.LARGEST", 10)
    (tmp_path / SEEN).write_bytes(b"x" * 11)
    with pytest.raises(InputError, match="is larger than any list of images"):
        read_seen(tmp_path / delta.FILE, "")


def test_a_picture_of_two_classes_is_said(train_tiny, evaluate, make_folder):
    for top, seed in (("animals", 0), ("ext", 5)):
        make_folder(top, splits=(), per_class=6, seed=seed)
        Image.open(f"{top}/cat/0.png").save(f"{top}/dog/again.bmp")
    code, _, err = train_tiny("animals", "method=gda")
    assert code == 0, err
    trained = json.loads(Path("out/metrics.json").read_text())["notes"]
    for notes, top in ((trained, "animals"), (evaluate("out", "ext")["notes"], "ext")):
        (note,) = (note for note in notes if "two classes" in note)
        files = [Path(top, name).resolve() for name in ("cat/0.png", "dog/again.bmp")]
        assert note == (
            "1 images stand in two classes, so a label of each pair is wrong:\n"
            f"  {files[0]}  =  {files[1]}"
        )


def test_the_folder_of_a_run_is_not_written_over(adapter, run_cli, make_folder):
    make_folder("ext", splits=(), per_class=3, seed=5)
    before = Path("out/metrics.json").read_bytes()
    words = ("out/adapter", "dataset=ext", "model=tiny.yaml")
    code, _, err = run_cli("evaluate", *words, "output=out")
    assert code == 2 and "output=out is the folder of a run, whose metrics.json would be" in err
    assert Path("out/metrics.json").read_bytes() == before
    assert run_cli("evaluate", *words, "output=out/measured")[0] == 0


def test_images_of_a_patient_who_was_seen_are_left_out(make_folder, tmp_path):
    make_folder("d", splits=(), classes=("cat",), per_class=5)
    items = [Item(str(tmp_path / f"d/cat/{i}.png"), 0, g) for i, g in enumerate("ppqq")]
    items += [Item(str(tmp_path / "d/cat/4.png"), 0)]
    survey = scan.survey_images([item.path for item in items])
    seen = [SeenImages.of({"train": [], "calibration": items[1:2]}, survey), SeenImages()]
    tested = choose_tested("d", items, seen, survey, "error")
    assert tested.items == items[2:]
    assert tested.facts() == {
        "found": 5, "measured": 3, "left_out": {"calibration": 1, "group": 1},
    }  # fmt: skip


def test_classes_by_the_names_of_their_folders(train_tiny, evaluate, make_folder, run_cli):
    make_folder("d", classes=("MEL", "nv"), per_class=3)
    words = ("dataset.classes={MEL: melanoma, nv: common naevus}", "method=gda")
    code, _, err = train_tiny("d", *words)
    assert code == 0, err
    expected = evaluate("out", "d", words[0])
    make_folder("ext", classes=("mel", "Common_Naevus"), splits=("test",), per_class=3)
    for theirs, ours in (("mel", "MEL"), ("Common_Naevus", "nv")):
        shutil.rmtree(f"ext/test/{theirs}")
        shutil.copytree(f"d/test/{ours}", f"ext/test/{theirs}")
    result = evaluate("out", "ext")
    for name, row in expected["test"].items():  # intervals are of other resamples: of other rows
        assert result["test"][name]["value"] == pytest.approx(row["value"]), name
    note = "classes are measured as 'Common Naevus' as 'common naevus', 'mel' as 'melanoma'"
    assert result["notes"] == [note]
    shutil.copytree("ext/test/mel", "ext/test/wart")
    code, _, err = run_cli("evaluate", "out/adapter", "dataset=ext", "model=tiny.yaml")
    assert code == 2
    assert "the delta does not know these classes of the data set: 'wart'" in err
    assert 'Say which is which with dataset.classes="{theirs: ours}"' in err


def test_classes_that_a_card_lists_are_the_only_ones_that_are_measured(
    adapter, evaluate, make_folder
):
    make_folder("ext", splits=(), per_class=2, seed=5)
    assert Dataset.load("ext", measures=True).unsplit
    result = evaluate(adapter, "ext", "dataset.classes={cat: cat}")
    assert result["n_test"] == 2
