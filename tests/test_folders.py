"""Folders as people have them: deep, linked, in any spelling, with whatever else lies in them."""

import functools
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from clip_adapt.data.dataset import Dataset
from clip_adapt.data.folders.tree import walk_folder
from clip_adapt.errors import InputError

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@functools.cache
def picture(seed):
    """Return the bytes of a small image, another for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def lay_out(tmp_path):
    """A function that makes a folder of files: the images of a word are of the folder it names."""
    seeds = iter(range(10_000))

    def make(*folders, files=(), links=(), count=4):
        for name in folders:
            (tmp_path / "d" / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                picture(next(seeds)).save(tmp_path / "d" / name / f"{number}.png")
        for name in files:
            (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "d" / name).write_bytes(b"x")
        for name, target in links:
            (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(target, tmp_path / "d" / name)
        return tmp_path / "d"

    return make


def count_by_split(data):
    """Return how many images there are of each class, in train, val and test."""
    return {
        name: tuple(sum(i.label == label for i in items) for items in data.parts().values())
        for label, name in enumerate(data.classes)
    }


def total(data):
    """Return how many images there are of each class."""
    return {name: sum(counts) for name, counts in count_by_split(data).items()}


def refusal(root, **options):
    """Return the message that a folder is refused with, its path left out."""
    with pytest.raises(InputError) as caught:
        Dataset.load(root, options)
    return str(caught.value).replace(f"{root}", "d")


def notes(data, root):
    """Return what is said of how a folder was read, its path left out."""
    return [note.replace(str(root), "d") for note in data.inventory.notes]


def test_images_of_patients_below_a_class_are_its_images(lay_out):
    root = lay_out("cat", "dog", "bird/p1", "bird/p2/left eye", "bird/.hidden", "bird/@eaDir")
    data = Dataset.load(root)
    assert total(data) == {"bird": 8, "cat": 4, "dog": 4}
    assert notes(data, root) == [
        "images in folders below a class are read as images of that class: bird (p1, p2)"
    ]
    paths = [i.path for items in data.parts().values() for i in items if i.label == 0]
    assert str(root / "bird" / "p2" / "left eye" / "3.png") in paths


def test_many_classes_with_folders_below_are_said_in_one_note(lay_out):
    root = lay_out(*(f"c{n}/p{m}" for n in range(8) for m in range(5)), count=1)
    words = [f"c{n} (p0, p1, p2, and 2 more)" for n in range(6)]
    assert notes(Dataset.load(root), root) == [
        "images in folders below a class are read as images of that class: "
        f"{', '.join(words)}, and 2 more"
    ]


def test_links_are_followed_once_and_never_upwards(lay_out):
    links = [
        ("cat/up", ".."), ("cat/self", "self"), ("cat/here", "."), ("cat/again", "more"),
        ("eel", "../elsewhere/eel"),
    ]  # fmt: skip
    root = lay_out("cat", "cat/more", "dog", "../elsewhere/eel", links=links)
    data = Dataset.load(root)
    assert total(data) == {"cat": 8, "dog": 4, "eel": 4}
    assert data.inventory.ignored == {"broken links": 1}


def test_a_folder_is_walked_in_the_order_of_its_names(lay_out):
    root = lay_out("b", "", "a/c", count=2)
    assert [p.relative_to(root).as_posix() for p in walk_folder(root).images] == [
        "0.png", "1.png", "a/c/0.png", "a/c/1.png", "b/0.png", "b/1.png",
    ]  # fmt: skip


def test_classes_without_an_image_are_refused_by_name(lay_out):
    links = [(f"fox/{n}.png", f"/nowhere/{n}.png") for n in range(3)]
    files = ["eel/deep/Thumbs.db", "eel/1.XYZ", "eel/2.xyz", "owl/.DS_Store"]
    root = lay_out("cat", "dog", files=files, links=links)
    (root / "bird").mkdir()
    assert refusal(root) == (
        "d has class folders without an image that can be read: bird (empty), eel (2 .xyz, "
        "1 Thumbs.db), fox (3 broken links), owl (1 .DS_Store). Put images into them, or remove "
        "them, or name the classes to read: dataset.classes='[cat, dog]'."
    )
    assert total(Dataset.load(root, {"classes": ["cat", "dog"]})) == {"cat": 4, "dog": 4}


def test_no_class_has_an_image(lay_out):
    root = lay_out(files=["cat/1.xyz", "dog/1.xyz"])
    assert refusal(root) == (
        "d has class folders without an image that can be read: cat (1 .xyz), dog (1 .xyz). Put "
        "images into them, or remove them."
    )


def test_a_class_is_empty_where_others_train(lay_out):
    root = lay_out("train/cat", "train/dog", "test/cat", "test/dog", "test/eel")
    (root / "train" / "eel").mkdir()
    assert refusal(root).startswith("d/train has class folders without an image that can be read")
    (root / "train" / "eel").rmdir()
    assert refusal(root).startswith("d/test has classes without training images: eel.")


def test_classes_that_were_not_named_are_said(lay_out):
    root = lay_out("train/cat", "train/dog", "train/eel", "test/cat", "test/dog", "test/fox")
    data = Dataset.load(root, {"classes": ["dog", "cat"]})
    assert count_by_split(data) == {"dog": (4, 0, 4), "cat": (4, 0, 4)}
    assert notes(data, root) == [
        "not used, because the classes were named: eel (4 images), fox (4 images)"
    ]


def test_what_is_passed_over_is_counted(lay_out):
    files = [
        "README.md", "cat/Thumbs.db", "dog/Thumbs.db", "dog/.DS_Store", "dog/a/._1.png",
        "cat/notes.TXT", "dog/notes.txt", "cat/IM0001", "cat/IM0002", "__MACOSX/cat/1.png",
    ]  # fmt: skip
    root = lay_out("cat", "dog", "", files=files)
    data = Dataset.load(root)
    assert data.inventory.ignored == {
        ".md": 1, "Thumbs.db": 2, ".DS_Store": 1, "hidden .png": 1, ".txt": 2,
        "without a suffix": 2,
    }  # fmt: skip
    assert notes(data, root) == [
        "4 images lie in d beside the class folders and are not used: they have no class"
    ]


@pytest.mark.parametrize(
    "written",
    [
        ["runs/d/coop/config.yaml", "runs/d/coop/metrics.json", "runs/d/coop/adapter/README.md"],
        ["config.yaml", "metrics.json", "adapter/adapter.safetensors", "adapter/README.md"],
        ["sweep/results.csv", "sweep/results.md", "sweep/curve.png"],
        ["cat/old/results.csv", "cat/old/results.md", "cat/old/curve.png"],
    ],
)
def test_what_was_written_into_a_folder_of_images_is_no_class_of_it(lay_out, written):
    root = lay_out("cat", "dog", files=written)
    data = Dataset.load(root)
    assert total(data) == {"cat": 4, "dog": 4} and notes(data, root) == []
    assert data.inventory.ignored["folders of runs"] == 1
    assert total(Dataset.load(root, measures=True)) == {"cat": 4, "dog": 4}


@pytest.mark.parametrize(
    "names",
    [("Train", "Validation", "TEST"), ("TRAINING", "Val", "testing"), ("train ", "VALID", "Test")],
)
def test_splits_in_any_case(lay_out, names):
    root = lay_out(*(f"{split}/{name}" for split in names for name in ("cat", "dog")))
    data = Dataset.load(root)
    assert count_by_split(data) == {"cat": (4, 4, 4), "dog": (4, 4, 4)}
    assert f"{os.sep}{names[2]}{os.sep}" in data.test[0].path


@pytest.mark.parametrize("twin", ["Train", "training"])
def test_two_folders_of_one_split(lay_out, twin):
    root = lay_out("train/cat", "train/dog", "test/cat", "test/dog", f"{twin}/cat")
    first, second = sorted(["train", twin])
    assert refusal(root) == (
        f"d has two folders of the split train, {first} and {second}: put their images into one, "
        "or say which folder is which split: dataset.splits='{train: FOLDER, test: FOLDER}'. If "
        "they are classes: dataset.splits=null"
    )
    given = Dataset.load(root, {"splits": {"train": "train", "test": "test"}})
    assert total(given) == {"cat": 8, "dog": 8}


@pytest.mark.parametrize("wrapper", ["images", "any name", "d/data"])
def test_splits_below_one_folder(lay_out, wrapper):
    root = lay_out(
        *(f"{wrapper}/{s}/{c}" for s in ("train", "test") for c in ("cat", "dog")),
        files=["labels/train/1.txt"],
    )
    data = Dataset.load(root)
    assert count_by_split(data) == {"cat": (4, 0, 4), "dog": (4, 0, 4)}
    assert notes(data, root) == [f"the images are read from d/{wrapper}"]


def test_classes_below_one_folder(lay_out):
    root = lay_out("images/cat", "images/dog")
    assert total(Dataset.load(root)) == {"cat": 4, "dog": 4}


def test_splits_that_hold_one_folder(lay_out):
    root = lay_out(*(f"{s}/images/{c}" for s in ("train", "test") for c in ("cat", "dog")))
    assert count_by_split(Dataset.load(root)) == {"cat": (4, 0, 4), "dog": (4, 0, 4)}


def test_one_class_of_patients_is_not_taken_for_classes(lay_out):
    root = lay_out("cat/p1", "cat/p2")
    assert refusal(root) == (
        "d has one class with images, 'cat': expected at least two to tell apart, one folder each. "
        "If the folders below it are the classes, point at it: dataset=d/cat"
    )


@pytest.mark.parametrize("name", ["train", "test", "Val"])
def test_a_class_that_is_called_like_a_split(lay_out, name):
    root = lay_out(name, "bus", "car")
    data = Dataset.load(root)
    assert total(data) == dict.fromkeys(sorted([name, "bus", "car"]), 4)
    assert notes(data, root) == [
        f"{name} in d is read as a class like the other folders: images lie in it"
    ]
    assert Dataset.load(root, {"splits": None}).inventory.notes == ()


def test_a_class_or_a_split_that_nobody_can_tell(lay_out, train_tiny, tmp_path):
    root = lay_out("train/local", "train/express", "bus", "car")
    assert refusal(root) == (
        "d has folders called train beside bus, car: is train a class or a split? If a class, say "
        "so: dataset.splits=null. If a split, put the images to train on and to test on into "
        "d/train and d/test, one folder a class."
    )
    assert total(Dataset.load(root, {"splits": None})) == {"bus": 4, "car": 4, "train": 8}
    code, out, err = train_tiny(root, "method=zero_shot", "dataset.splits=null")
    assert code == 0, out + err
    assert "splits: null" in (tmp_path / "out" / "config.yaml").read_text()


def test_a_single_split_says_how_to_go_on(lay_out):
    root = lay_out("train/cat", "train/dog", "valid/cat", "valid/dog")
    assert refusal(root) == (
        "d has a train folder and no test folder. Put the images to be tested on into d/test, one "
        "folder a class; or point at d/train to have it split; or test on valid: "
        "dataset.splits='{train: train, test: valid}'."
    )
    given = Dataset.load(root, {"splits": {"train": "train", "test": "valid"}})
    assert count_by_split(given) == {"cat": (4, 0, 4), "dog": (4, 0, 4)}


def test_a_test_folder_alone(lay_out):
    root = lay_out("Test/cat", "Test/dog")
    assert refusal(root).startswith("d has a Test folder and no train folder. Put the images ")
    assert count_by_split(Dataset.load(root, measures=True)) == {"cat": (0, 0, 4), "dog": (0, 0, 4)}


def test_test_images_without_labels(lay_out):
    root = lay_out("train/cat", "train/dog", "test")
    assert refusal(root) == (
        "d/test holds no images in its class folders: 4 images lie in it without one, so that "
        "nobody knows what they show. Point at d/train to have that split"
    )


def test_splits_below_the_classes(lay_out):
    root = lay_out("cat/train", "dog/Train", "cat/test", "dog/test", "dog/val")
    data = Dataset.load(root)
    assert count_by_split(data) == {"cat": (4, 0, 4), "dog": (4, 4, 4)}
    assert notes(data, root) == ["the folders below the classes of d are read as splits"]


def test_splits_below_some_classes_are_not_mixed(lay_out):
    root = lay_out("cat/train", "cat/test", "dog")
    assert refusal(root) == (
        "d/cat holds folders called train and test, and dog images outside of such folders. Put "
        "the splits above the classes: d/train/cat. If they are no splits: dataset.splits=null"
    )


def test_images_beside_the_splits_are_said(lay_out):
    root = lay_out("train/cat", "train/dog", "test/cat", "test/dog", "unlabelled/a")
    data = Dataset.load(root)
    assert total(data) == {"cat": 8, "dog": 8}
    assert notes(data, root) == ["d/unlabelled lies beside the splits and is not used: 4 images"]


@pytest.mark.parametrize(("one", "other"), [(NFC, NFD), ("cat", "Cat"), ("a & b", "a &amp; b")])
def test_a_class_that_another_split_spells_otherwise(lay_out, one, other):
    root = lay_out(f"train/{one}", "train/dog", f"test/{other}", "test/dog")
    data = Dataset.load(root)
    assert count_by_split(data) == {one: (4, 0, 4), "dog": (4, 0, 4)}
    assert notes(data, root) == [f"d/test/{other} is read as the class {one}"]
