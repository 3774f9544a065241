"""adapt() of images and labels that Python code holds, in the forms that libraries have them."""

import csv
import inspect
import logging
import typing
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

import clip_adapt
from clip_adapt.config import adapt_options
from clip_adapt.config.adapt_options import AdaptOptions
from clip_adapt.config.run_options import RunOptions
from clip_adapt.data import decoding
from clip_adapt.data.dataset import Dataset
from clip_adapt.data.given.listing import write_list
from clip_adapt.errors import InputError
from clip_adapt.evaluation import resampling

NAMES = ["cat", "dog", "eel"]


@pytest.fixture(scope="module")
def files(make_folder, tmp_path_factory):
    """Paths, labels and splits of 36 small images."""
    top = make_folder(tmp_path_factory.mktemp("given") / "animals", splits=("train", "test"))
    paths = sorted(top.rglob("*.png"))
    return [str(p) for p in paths], [p.parent.name for p in paths], [p.parts[-3] for p in paths]


@pytest.fixture
def adapt_tiny(tiny_model, monkeypatch):
    """A function that solves shortly: everything that is measured on the test images."""
    monkeypatch.setattr(resampling, "RESAMPLES", 2)

    def adapt(*args, **options):
        usual = {"method": "gda", "shots": 2, "model": tiny_model, "report": False, "output": "out"}
        return clip_adapt.adapt(*args, **{**usual, "tensorboard": False, **options})

    return adapt


@pytest.fixture
def read(tmp_path):
    """A function: (pixels, class) of every image of each split, as the list in the cache has it."""

    def read(*args, **options):
        data = Dataset.load(write_list(*args, **options, cache=tmp_path / "cache"))

        def look(item):
            return decoding.decode(item.path).tobytes(), data.classes[item.label]

        return {split: sorted(map(look, items)) for split, items in data.parts().items()}

    return read


class Pairs:
    """What torch's Dataset is: a length and pairs by index."""

    def __init__(self, images, labels, classes=None):
        self.images, self.labels = images, labels
        if classes is not None:
            self.classes = classes

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index >= len(self.images):
            raise RuntimeError("asked beyond the end")
        return self.images[index], self.labels[index]


def test_images_in_memory_measure_as_a_table_of_their_files(files, adapt_tiny, tmp_path):
    paths, labels, splits = files
    table = tmp_path / "table.csv"
    with open(table, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "label", "split"])
        rows.writerows(zip(paths, labels, splits, strict=True))
    of_table = adapt_tiny(table, dataset={"root": "/"}, output="table")
    arrays = [np.asarray(Image.open(p)) for p in paths]
    for number, images in enumerate((paths, arrays, [Image.open(p) for p in paths])):
        made = adapt_tiny(images, labels, splits=splits, output=f"out{number}")
        assert made.metrics["test"] == of_table.metrics["test"]
        assert made.metrics["zero_shot"] == of_table.metrics["zero_shot"]
        assert made.classes == NAMES and made.metrics["n_test"] == 18


def test_a_picture_that_pillow_opened_is_its_file_while_nobody_changed_it(files, tmp_path):
    paths, labels, _ = files
    opened = [Image.open(p) for p in paths]
    opened[0].load()
    opened[0].putpixel((0, 0), (1, 2, 3))
    data = Dataset.load(write_list(opened, labels, cache=tmp_path / "c"))
    given = [item.path for items in data.parts().values() for item in items]
    assert set(given) - set(paths) == {str(p) for p in (tmp_path / "c").rglob("*.png")}
    assert len(set(given) & set(paths)) == 35


def test_every_form_gives_the_same_images(files, read):
    paths, labels, splits = files
    numbers = [NAMES.index(name) for name in labels]
    pictures = [Image.open(p).convert("RGB") for p in paths]
    arrays = np.stack([np.asarray(p) for p in pictures])
    expected = read(paths, labels, splits=splits)
    assert [len(part) for part in expected.values()] == [18, 0, 18]
    channels_first = torch.from_numpy(arrays).permute(0, 3, 1, 2)
    forms = [
        ([Path(p) for p in paths], np.array(labels)),
        (arrays, np.array(numbers)),
        (pictures, [np.int64(n) for n in numbers]),
        (channels_first, torch.tensor(numbers)),
        (channels_first.float() / 255, pandas.Series(numbers)),
        ([Path(p).read_bytes() for p in paths], [float(n) for n in numbers]),
        ((p for p in paths), (n for n in numbers)),
        (Pairs(pictures, numbers),),
        (list(zip(paths, numbers, strict=True)),),
        (dict(zip(paths, numbers, strict=True)).items(),),
        (dict(zip(paths, numbers, strict=True)).keys(), numbers),
        ({"image": arrays, "label": numbers},),
        (pandas.DataFrame({"Path": paths, "Class": numbers}),),
    ]
    for form in forms:
        assert read(*form, splits=splits, classes=NAMES) == expected, form
    assert read(Pairs(pictures, numbers, NAMES), splits=splits) == expected
    frame = pandas.DataFrame({"file": paths, "y": labels, "where": splits, "label": 0})
    assert read(frame, "y", splits="where") == expected


def test_splits_may_be_given_apart(files, read):
    paths, labels, splits = files
    expected = read(paths, labels, splits=splits)
    half = {
        name: ([p for p, s in zip(paths, splits, strict=True) if s == name],
               [y for y, s in zip(labels, splits, strict=True) if s == name])
        for name in ("train", "test")
    }  # fmt: skip
    assert read(half) == expected
    pairs = {"Training": Pairs(*half["train"]), "testing": Pairs(*half["test"])}
    assert read(pairs) == expected
    assert read({name: {"img": i, "target": y} for name, (i, y) in half.items()}) == expected


def test_a_hugging_face_data_set_is_known_by_its_features(files, read):
    pytest.importorskip("datasets.load", reason="pip install datasets")
    import datasets

    paths, labels, splits = files
    features = datasets.Features(
        {"picture": datasets.Image(), "name": datasets.Value("string"),
         "what": datasets.ClassLabel(names=NAMES), "part": datasets.Value("string")}
    )  # fmt: skip
    rows = {"picture": paths, "name": labels, "part": splits}
    whole = datasets.Dataset.from_dict(
        {**rows, "what": [NAMES.index(y) for y in labels]}, features=features
    )
    expected = read(paths, labels, splits=splits)
    assert read(whole, splits="part") == expected
    assert read(whole, "name", splits="part") == expected
    assert read(whole, labels, splits=splits) == expected
    parts = {s: whole.filter(lambda row, s=s: row["part"] == s) for s in ("train", "test")}
    assert read(datasets.DatasetDict(parts)) == expected


def test_the_columns_of_a_frame_are_those_of_a_table(files, tmp_path, caplog):
    paths, labels, _ = files
    frame = pandas.DataFrame({"Path": paths, "dx": labels, "fold": [i % 3 for i in range(36)]})
    frame["Patient ID"] = [i // 2 for i in range(36)]
    with caplog.at_level(logging.INFO, "clip_adapt"):
        data = Dataset.load(write_list(frame, cache=tmp_path))
        plain = Dataset.load(write_list(frame[["Path", "dx"]], cache=tmp_path))
    assert "columns: image 'Path', label 'dx', group 'Patient ID'\n" in caplog.text
    assert "columns: image 'Path', label 'dx', no group\n" in caplog.text
    assert {item.group for item in data.train} < {str(i) for i in range(18)}
    assert {item.group for item in plain.train} == {None}


def test_groups_stay_together(files, tmp_path):
    paths, labels, _ = files
    groups = [np.int64(i // 3) for i in range(len(paths))]
    groups[0] = float("nan")
    data = Dataset.load(write_list(paths, labels, groups=groups, cache=tmp_path))
    where = {}
    for split, items in data.parts().items():
        for item in items:
            if item.group is not None:
                where.setdefault(item.group, set()).add(split)
    assert len(where) == 12 and all(len(splits) == 1 for splits in where.values())
    assert sum(item.group is None for items in data.parts().values() for item in items) == 1


def test_classes_keep_the_order_in_which_they_are_given(files, tmp_path):
    paths, labels, _ = files
    order = ["eel", "cat", "dog"]
    numbers = [order.index(name) for name in labels]
    assert Dataset.load(write_list(paths, numbers, classes=order, cache=tmp_path)).classes == order
    spoken = {0: "sea eel", 1: "tom cat", 2: "hot dog"}
    made = Dataset.load(write_list(paths, numbers, classes=spoken, cache=tmp_path))
    assert made.classes == ["sea eel", "tom cat", "hot dog"]
    made = Dataset.load(write_list(paths, [10 - n for n in numbers], cache=tmp_path))
    assert made.classes == ["8", "9", "10"]
    assert made.inventory.notes[0].startswith("the classes are called 8, 9, 10, which says nothing")


def test_the_same_picture_twice_is_two_images_and_never_in_two_splits(files, read):
    paths, labels, _ = files
    arrays = [np.asarray(Image.open(p)) for p in paths]
    parts = read([*arrays, *arrays], [*labels, *labels])
    for part in parts.values():
        assert all(part.count(row) == 2 for row in part)
    assert sum(map(len, parts.values())) == 72


BLACK = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    "args, options, message",
    [
        (([BLACK] * 3, ["a", "b"]), {}, "labels has 2 values and images has more"),
        (([BLACK] * 2, ["a", "b", "b"]), {}, "images has 2 values and labels has more"),
        (([BLACK] * 2, ["a", "b"]), {"groups": [1]}, "groups has 1 values and images has more"),
        (([], []), {}, "there are no images"),
        (([BLACK] * 2, ["a", "a"]), {}, "all 2 images are of one class, 'a'"),
        (([BLACK] * 2, ["a", None]), {}, r"images\[1\] has no label \(None\)"),
        (([BLACK] * 2, ["a", float("nan")]), {}, r"images\[1\] has no label \(nan\)"),
        (([BLACK] * 2, ["a", pandas.NA]), {}, r"images\[1\] has no label"),
        (([BLACK] * 2, ["a", 0.5]), {}, r"label of images\[1\] is 0.5: expected text"),
        (([BLACK] * 2, np.eye(2)), {}, r"label of images\[0\] is array\(\[1., 0.\]\)"),
        (([BLACK] * 2, [0, 2]), {"classes": ["a", "b"]}, r"is 2, and classes= has 2 names"),
        (([BLACK] * 2, ["a", "bat"]), {"classes": ["a", "bad"]}, "did you mean 'bad'"),
        (([BLACK] * 2, ["a", "b"]), {"classes": ["a", "b", "c"]}, "no image is given of the c"),
        (([BLACK] * 2,), {}, r"labels are missing: images\[0\] is a ndarray"),
        (([BLACK, 7], ["a", "b"]), {}, r"images\[1\]: an image is a path, .*, not int"),
        (([BLACK, None], ["a", "b"]), {}, r"images\[1\]: an image is a path, .*, not None"),
        (([BLACK, "gone.png"], ["a", "b"]), {}, "1 images do not exist:"),
        ((["x.png", "x.png"], ["a", "b"]), {}, "images do not exist"),
        (({"a.png", "b.png"}, ["a", "b"]), {}, "a set has no order"),
        (([BLACK] * 2, {"a", "b"}), {}, "a set has no order"),
        (([BLACK] * 2, {"x": "a", "y": "b"}), {}, "labels={.*}: expected a list, one for each"),
        (({"a.png": "cat", "b.png": "dog"},), {}, r"'a.png' in it is 'cat': .* images.items\(\)"),
        (([BLACK] * 2, "ab"), {}, "labels='ab' names a column, and images is a list"),
        ((7, [1]), {}, "images=7: expected a list"),
        (([BLACK] * 2, ["a", "b"]), {"splits": ["train", "dev"]}, "unknown split 'dev'"),
        (([BLACK] * 2, ["a", "b"]), {"splits": ["train", None]}, "1 of 2 images have no split"),
        (
            ([BLACK] * 2, ["a", "b"]),
            {"splits": ["train"] * 2},
            "no given image is in the split test",
        ),
        (([torch.full((3, 8, 8), 2.0)] * 2, ["a", "b"]), {}, r"images\[0\]: "),
        (({"image": [BLACK]},), {}, "no column for the label: it has image"),
        (({"x": [BLACK], "label": [1]},), {}, "no column for the image: it has x, label"),
        ((pandas.DataFrame({"image": ["x"]}), "y"), {}, "no column 'y'. It has: image"),
        (({"train": ([BLACK], [1])},), {"splits": ["train"]}, "leave splits= out"),
        (("folder", ["a"]), {}, "images=folder is a folder, a table or a name"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(args, options, message, tiny_model):
    with pytest.raises(InputError, match=message) as caught:
        clip_adapt.adapt(*args, **options, model=tiny_model, method="gda", shots=1)
    assert len(str(caught.value).splitlines()) <= 2
    assert not Path("runs").exists()


def test_where_pictures_are_kept_is_said(files, tmp_path, caplog):
    paths, labels, _ = files
    arrays = [np.asarray(Image.open(p)) for p in paths]
    with caplog.at_level(logging.INFO, "clip_adapt"):
        first = write_list(arrays, labels, cache=tmp_path)
    assert f"36 images (0.2 MB) lie in {tmp_path / 'given'}" in caplog.text
    before = sorted(tmp_path.rglob("*.png"))
    assert len(before) == 36
    assert write_list(arrays, labels, cache=tmp_path) == first
    assert sorted(tmp_path.rglob("*.png")) == before
    assert write_list(arrays[1:], labels[1:], cache=tmp_path) != first


def test_nested_options_reach_the_method(files, adapt_tiny):
    paths, labels, splits = files
    made = adapt_tiny(paths, labels, splits=splits, method={"n_ctx": 3}, epochs=1)
    assert made.header.method["name"] == "coop" and made.header.method["options"]["n_ctx"] == 3
    made = adapt_tiny(paths, labels, splits=splits, dataset={"name": "mine", "templates": ["a {}"]})
    assert made.header.dataset == "mine" and made.method.task.templates == ("a {}",)
    with pytest.raises(InputError, match="images is the data set"):
        adapt_tiny(paths, labels, dataset="eyes")
    with pytest.raises(InputError, match=r"method\.n_ctc"):
        adapt_tiny(paths, labels, method={"name": "coop", "n_ctc": 3})


def test_the_types_that_an_editor_sees_are_those_that_are_checked():
    ours = typing.get_type_hints(AdaptOptions)
    theirs = typing.get_type_hints(RunOptions)
    named = inspect.signature(clip_adapt.adapt).parameters.keys()
    assert named >= {"method", "shots"} and ours.keys() == (theirs.keys() | {"dataset"}) - {
        "method", "shots"
    }  # fmt: skip
    for name in theirs.keys() - {"method", "dataset", "shots", "model"}:
        paths = Path if name in adapt_options.PATHS else typing.Never
        seen, checked = (set(typing.get_args(kind[name] | paths)) for kind in (ours, theirs))
        assert seen == checked, name
