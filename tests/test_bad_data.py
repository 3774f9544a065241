"""What can be wrong with tables, split files, subsets and folders: each has its own message."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from clip_adapt.data.dataset import Dataset
from clip_adapt.errors import InputError


@pytest.fixture
def refusal():
    """A function that loads a data set, expects a refusal, and returns the message."""

    def load(path):
        with pytest.raises(InputError) as caught:
            Dataset.load(path)
        return str(caught.value)

    return load


@pytest.fixture
def place(make_folder, tmp_path):
    """A folder with images of two classes, and a function that writes a table into it."""
    root = make_folder(tmp_path / "d", splits=(), classes=("cat", "dog"), per_class=3)

    def write(text, name="t.csv", encoding="utf-8"):
        content = text if isinstance(text, bytes) else text.encode(encoding)
        (root / name).write_bytes(content)
        return root / name

    write.root = root
    return write


GOOD = [f"{name}/{n}.png,{name},{split}" for name in ("cat", "dog")
        for n, split in enumerate(("train", "val", "test"))]  # fmt: skip
HEAD = "path,label,split\n"


def lines(*rows, head=HEAD):
    return head + "\n".join(rows) + "\n"


def test_the_table_that_is_spoilt_below_is_good(place):
    assert [len(items) for items in Dataset.load(place(lines(*GOOD))).parts().values()] == [2, 2, 2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # 1. the column of the label
        (
            lines(*GOOD, head="path,kind,split\n"),
            "{t} has no column for the label: it has path, kind, split. Name one of these 'label', "
            "or say which it is: dataset.label=COLUMN",
        ),
        # 2. the column of the image
        (
            lines(*GOOD, head="where,label,split\n"),
            "{t} has no column for the image: it has where, label, split. Name one of these "
            "'image', or say which it is: dataset.image=COLUMN",
        ),
        # 3. files that do not exist
        (
            lines(*GOOD, "cat/9.png,cat,test", "dog/8.png,dog,test"),
            "2 images of {t} do not exist:\n  line 8: {d}/cat/9.png\n  line 9: {d}/dog/8.png",
        ),
        # 4. a label in one row only
        (
            lines(*GOOD, "cat/2.png,doog,test"),
            "{t}, line 8: the label 'doog' stands in one row only - did you mean 'dog'? "
            "A class needs images to train and to test on.",
        ),
        # 5. a path that leaves its folder
        (
            lines(*GOOD[:-1], "../secret.png,dog,test"),
            "{t}, line 7: '../secret.png' leaves the folder {d}. If the images lie elsewhere, say "
            "where: dataset.root=FOLDER",
        ),
        # 6. an absolute path elsewhere
        (
            lines(*GOOD[:-1], "/etc/hostname,dog,test"),
            "{t}, line 7: '/etc/hostname' leaves the folder {d}. If the images lie elsewhere, say "
            "where: dataset.root=FOLDER",
        ),
        # 7. NUL bytes
        (
            lines(*GOOD[:2]).encode() + b"cat/\0,cat,train\n",
            "{t}, line 4: a NUL byte; this is no text, or it is damaged",
        ),
        # 8. an empty file
        (b"", "the table {t} is empty"),
        (b" \n\n", "the table {t} is empty"),
        # 9. another encoding
        (
            lines(*GOOD, "cat/ä.png,cat,test").encode("latin-1"),
            "{t}, line 8: byte 0xe4 is not utf-8-sig. Save the table as UTF-8, or say what it is: "
            "dataset.encoding=cp1252",
        ),
        # 10. UTF-16 that does not say so
        (
            lines(*GOOD).encode("utf-16-le"),
            "{t}, line 1: a NUL byte; this is no text, or it is damaged. It looks like UTF-16 "
            "without its mark: dataset.encoding=utf-16-le",
        ),
        # 11. names of columns only
        (HEAD.encode(), "{t} has column names and no rows"),
        # 12. too many values in a row
        (
            lines(*GOOD, "cat/2.png,cat,test,more"),
            "{t}, line 8: 4 values where 3 columns are named (path, label, split). Put values that "
            "hold the delimiter into quotes.",
        ),
        # 13. a quote that is not closed
        (lines(*GOOD, '"cat/2.png,cat,test'), "{t}, line 8: unexpected end of data"),
        # 14. two columns of one name
        (
            lines(*GOOD, head="path,label,label\n"),
            "{t} has two columns named 'label'",
        ),
        # 15. a split that does not exist
        (
            lines(*GOOD[:-1], "dog/2.png,dog,tset"),
            "{t}, line 7: unknown split 'tset' - did you mean 'test'? There is: train, training, "
            "val, valid, validation, test, testing. If 'split' holds no splits, leave it out: "
            "dataset.split=null",
        ),
        # 16. nothing to test on
        (
            lines(*(row.replace("test", "val") for row in GOOD)),
            "{t} has no rows of the split test. Add some, or leave the column 'split' out to have "
            "the images split by their content: dataset.split=null",
        ),
        # 17. the same image in two rows
        (
            lines(*GOOD, "cat/./1.png,dog,test"),
            "{t} gives 1 images two labels, and an image has one class:\n"
            "  cat/1.png: 'cat' (line 3) and 'dog' (line 8)\nTake the wrong rows out.",
        ),
        (
            lines(*GOOD, "cat/1.png,cat,test"),
            "{t}: the rows of one image differ in split, lines 3 ('val') and 8 ('test')",
        ),
        # 18. labels or paths that are missing
        (
            lines(*GOOD[:-2], "dog/1.png,NaN,val", "dog/2.png,,test"),
            "{t}: label is empty (NaN) in 2 rows (lines 6, 7). Write what the image shows, or take "
            "these rows out.",
        ),
        (
            lines(*GOOD[:-1], " ,dog,test"),
            "{t}: path is empty in 1 rows (lines 7). Write the path of the image, or take these "
            "rows out.",
        ),
        # 19. one class only
        (lines(*GOOD[:3]), "{t} has one label only, 'cat': expected at least two"),
        # 20. a class without training images
        (
            lines(*GOOD[:3], "dog/1.png,dog,val", "dog/2.png,dog,test"),
            "{t} has classes without training images:\n  dog: 1 in val, 1 in test\nGive some of "
            "their images the split train, or have the images split by their content: "
            "dataset.split=null",
        ),
    ],
)
def test_a_bad_table(place, refusal, text, expected):
    path = place(text)
    assert refusal(path) == expected.format(t=path, d=place.root)


def card(place, text, **options):
    place(text)
    values = {"name": "zoo", "source": "csv", "file": "t.csv", **options}
    (place.root / "card.yaml").write_text("\n".join(f"{k}: {v}" for k, v in values.items()))
    return place.root / "card.yaml"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"label": "lable"},
            "{t} has no column 'lable' (dataset.label=lable) - did you mean 'label'? It has: path, "
            "label, split",
        ),
        ({"delimiter": "ab"}, "dataset.delimiter='ab': expected one character"),
        (
            {"encoding": "klingon"},
            "dataset.encoding=klingon: no such encoding; expected utf-8, cp1252, utf-16 ...",
        ),
        ({"classes": "{cat: cat, cow: cow}"}, "no row of {t} has the label cow"),
        (
            {"classes": "{cat: cat}"},
            "{t} has labels that the card's classes do not list: dog",
        ),
        (
            {"classes": "{cat: [cat, dog], dog: dog}"},
            "two classes in {d}/card.yaml have the name 'dog': give each its own spoken name",
        ),
        ({"classes": "{cat: [], dog: dog}"}, "a class in {d}/card.yaml has an empty list of names"),
        ({"file": "none.csv"}, "the table {d}/none.csv cannot be read: No such file or directory"),
    ],
)
def test_a_card_that_does_not_fit_its_table(place, refusal, options, expected):
    path = card(place, lines(*GOOD), **options)
    assert refusal(path) == expected.format(t=place.root / "t.csv", d=place.root)


def test_a_group_in_two_splits(place, refusal):
    rows = [f"{row},p{n % 3 if n != 5 else 0}" for n, row in enumerate(GOOD)]
    message = refusal(place(lines(*rows, head="path,label,split,patient\n")))
    assert message == (
        "1 groups stand in two splits:\n  p0 (in test, train)\n"
        "Keep all images of a group in one split. If a table's column names no group, leave it "
        "out: dataset.group=null"
    )


def test_too_few_groups_to_split(place, refusal):
    rows = [",".join([*row.split(",")[:2], f"the {row[:3]}'s"]) for row in GOOD]
    path = place(lines(*rows, head="path,label,patient\n"))
    assert refusal(path) == (
        f"{path} has too few groups to set some aside for testing: expected at least two "
        "different groups a class; dataset.group=null splits a table image by image"
    )


def test_an_image_in_two_splits_of_a_table(place, refusal):
    shutil.copy(place.root / "cat" / "0.png", place.root / "dog" / "2.png")
    message = refusal(place(lines(*GOOD)))
    assert message.startswith("1 images stand in two splits, so a test score would be too good:\n")
    assert f"  {place.root}/cat/0.png  =  {place.root}/dog/2.png\n" in message


def test_a_file_of_another_kind(tmp_path, refusal):
    (tmp_path / "data.pdf").write_bytes(b"%PDF")
    assert refusal(tmp_path / "data.pdf").startswith(
        f"{tmp_path / 'data.pdf'} is not a data set that can be read: expected a folder of "
        "class folders, a subset (.json or .jsonl), a split file (split_zhou_*.json), a table "
        "(.csv or .tsv), a list of given images (.images.json), a MedMNIST file (.npz), or a "
        "card.yaml"
    )


def test_a_folder_with_files_and_no_classes(tmp_path, refusal):
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    (tmp_path / "notes.txt").write_text("no image")
    assert refusal(tmp_path).startswith(
        f"{tmp_path} has no classes: 1 images lie in it without a class folder. Expected one "
        "folder a class, "
    )


SPLIT = {
    "train": [["cat/0.png", 0, "cat"], ["dog/0.png", 1, "dog"]],
    "val": [],
    "test": [["cat/1.png", 0, "cat"], ["dog/1.png", 1, "dog"]],
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("{", "{s} is damaged: it is not JSON ("),
        ([], "{s} is no split file: expected "),
        ({"test": []}, "{s} is no split file: expected "),
        (
            {"test": [["cat/7.png", 0, "cat"], ["dog/1.png", 1, "dog"]]},
            "1 images that {s} names are missing from {d}:\n  {d}/cat/7.png",
        ),
        (
            {"train": [["cow/0.png", 0, "cat"], ["dog/0.png", 1, "dog"]]},
            "the images of {s} are missing. Looked for\n  {d}/cow/0.png\n  {d}/cat/cow/0.png\n",
        ),
        (
            {"test": [["cat/1.png", 0, "cow"], ["dog/1.png", 1, "dog"]]},
            "{s} calls label 0 both 'cat' and 'cow' (at cat/1.png)",
        ),
        (
            {"train": [["cat/0.png", 0, "cat"], ["dog/0.png", 3, "pig"]]},
            "{s} has no images of labels 2",
        ),
        ({"val": [["cat/2.png", "0", "cat"]]}, "{s}: expected [path, label, class name] in val, "),
        ({"val": [["../x.png", 0, "cat"]]}, "{s}: '../x.png' in val leaves the folder of the "),
    ],
)
def test_a_bad_split_file(place, refusal, change, expected):
    content = {**SPLIT, **change} if isinstance(change, dict) else change
    text = content if isinstance(content, str) else json.dumps(content)
    path = place(text, "split_zhou_Made.json")
    assert refusal(path).startswith(expected.format(s=path, d=place.root))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"train": ["cat/0.png", "cow/1.png"]}, "1 images of {s} are not among the training and "),
        ({"train": ["cat/9.png"]}, "1 images of {s} are not among the training and validation "),
        ({"train": [400]}, "1 images of {s} are not among the training and validation images of "),
        ({"train": [None]}, "{s}: expected a path or a position in train, not None"),
        ({"shots=1": {}}, "{s} holds several subsets, choose with dataset.key=. There is: shots=1"),
        ({"train": {}}, "{s} is no subset: expected "),
        ([{"path": "x", "split": "test"}], "{s}, row 1: expected a path and the split train or "),
        ({"train": [0]}, "{s} has no training image of: dog"),
        ({"train": [0, 0]}, "{s} names images twice:\n"),
    ],
)
def test_a_bad_subset(make_folder, tmp_path, refusal, content, expected):
    make_folder(tmp_path / "zoo", classes=("cat", "dog"), per_class=2)
    (tmp_path / "subset.json").write_text(json.dumps(content))
    (tmp_path / "card.yaml").write_text("name: s\nsource: indices\nfile: subset.json\nof: zoo\n")
    message = refusal(tmp_path / "card.yaml")
    assert message.startswith(expected.format(s=tmp_path / "subset.json"))


def test_a_subset_with_another_label(make_folder, tmp_path, refusal):
    make_folder(tmp_path / "zoo", classes=("cat", "dog"), per_class=2)
    row = {"path": str(tmp_path / "zoo" / "train" / "cat" / "0.png"), "label": "dog"}
    (tmp_path / "s.jsonl").write_text(json.dumps(row))
    (tmp_path / "card.yaml").write_text("name: s\nsource: indices\nfile: s.jsonl\nof: zoo\n")
    assert refusal(tmp_path / "card.yaml") == (
        f"{tmp_path / 's.jsonl'} says that {row['path']} is 'dog'; in the data set it is 'cat'"
    )


def test_a_subset_of_nothing(tmp_path, refusal):
    (tmp_path / "s.jsonl").write_text("{}")
    message = refusal(tmp_path / "s.jsonl")
    assert message.startswith(f"{tmp_path / 's.jsonl'} is a subset: say which data set it was ")
    assert "dataset.of=NAME" in message


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("pathmnist.npz", b"no archive", "is damaged, or no file of MedMNIST: File is not a zip"),
        ("pathmnist.npz", {"labels": [[1, 0]]}, ": a set with several labels an image cannot be "),
        ("pathmnist.npz", {"images": np.float32}, ": images of float32 (2, 4, 4) cannot be read: "),
        ("breastmnist.npz", {"labels": [0, 0]}, "has the labels 0 to 0, not '1'"),
        ("a.npz", {"shape": (28, 27, 26)}, ": train_images holds volumes (28 x 27 x 26), which "),
        ("a.npz", {"shape": (9, 9, 9, 3)}, ": train_images holds volumes (9 x 9 x 9), which "),
        ("a.npz", {"shape": (3, 9, 9)}, ": images of uint8 (2, 3, 9, 9) cannot be read: expected "),
        ("a.npz", {"shape": (9,)}, ": images of uint8 (2, 9) cannot be read: expected uint8 (N, H"),
        ("a.npz", {"shape": (0, 9)}, ": images of uint8 (2, 0, 9) cannot be read: expected uint8"),
        ("a.npz", {"images": object}, ": images of Python objects (2, 4, 4) cannot be read: "),
        ("a.npz", {"labels": ["a", "b"]}, ": train_labels holds text of the shape (2,): expected "),
        ("a.npz", {"labels": [0.0, 1.0]}, ": train_labels holds float64 of the shape (2,): expect"),
        ("a.npz", {"labels": [{}, None]}, ": train_labels holds Python objects of the shape (2,)"),
        ("a.npz", {"labels": [-1, 1]}, ": train_labels holds -1: expected whole numbers from 0."),
        ("a.npz", {"labels": [0, 10**12]}, "has 6 images and labels up to 1000000000000: a class"),
        ("a.npz", {"labels": [0, 1, 1]}, ": train_images holds 2 images, train_labels 3 labels"),
    ],
)
def test_a_bad_medmnist_file(tmp_path, refusal, name, content, expected):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        labels = np.array(content.get("labels", np.arange(9) if "path" in name else [0, 1]))
        images = np.zeros((2, *content.get("shape", (4, 4))), dtype=content.get("images", np.uint8))
        arrays = {f"{s}_images": images for s in ("train", "val", "test")}
        np.savez(path, **arrays, **{f"{s}_labels": labels for s in ("train", "val", "test")})
    message = refusal(path)
    assert message.startswith(f"{path}") and expected in message and "\n" not in message


def test_an_npz_of_something_else(tmp_path, refusal):
    np.savez(tmp_path / "mnist_64.npz", x_train=np.zeros(3), y_train=np.zeros(3))
    assert refusal(tmp_path / "mnist_64.npz") == (
        f"{tmp_path / 'mnist_64.npz'} is no file of MedMNIST: it has no train_images, "
        "train_labels, val_images, val_labels, test_images, test_labels, but x_train, y_train. "
        "Write the images as files, one folder a class."
    )


def test_a_run_on_a_bad_table_leaves_nothing(train_tiny, place, tmp_path):
    code, _, err = train_tiny(place(lines(*GOOD, "cat/9.png,cat,test")))
    assert code == 2
    assert "error: 1 images of " in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()
