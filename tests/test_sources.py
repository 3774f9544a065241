"""Where images come from: tables, published splits, subsets, libraries; every card that ships."""

import csv
import importlib
import json
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_adapt.config import cards
from clip_adapt.config.cards import DataCard
from clip_adapt.data import catalog
from clip_adapt.data.dataset import Dataset
from clip_adapt.errors import InputError
from clip_adapt.system.files import hash_file

PARTS = ("train", "val", "test")


@pytest.fixture
def table(animals, tmp_path):
    """A function that writes a table of the animals beside them and returns its path."""

    def write(name="table.csv", columns=("path", "label", "split"), delimiter=",", edit=None):
        root = tmp_path / "pictures"
        if not root.exists():
            shutil.copytree(animals, root)
        rows = []
        for path in sorted(root.rglob("*.png")):
            split, label, _ = path.relative_to(root).parts
            facts = {"path": path.relative_to(root).as_posix(), "label": label, "split": split}
            rows.append({**facts, "group": f"{label}{path.stem}"})
        rows = edit(rows) if edit else rows
        with open(root / name, "w", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerow(columns)
            writer.writerows([row[c] for c in columns] for row in rows)
        return root / name

    return write


def labelled(dataset, root):
    """Return, for each split, the relative paths and class names of its images."""
    return {
        s: [(Path(i.path).relative_to(root).as_posix(), dataset.classes[i.label]) for i in items]
        for s, items in dataset.parts().items()
    }


@pytest.mark.parametrize(("name", "delimiter"), [("t.csv", ","), ("t.csv", ";"), ("t.tsv", "\t")])
def test_a_table_is_what_its_folder_is(table, name, delimiter):
    path = table(name, delimiter=delimiter)
    one, two = Dataset.load(path), Dataset.load(path.parent)
    assert one.classes == two.classes == ["cat", "dog", "eel"]
    assert one.parts() == two.parts()
    assert one.few_shot(2).train == two.few_shot(2).train
    assert one.card.templates == ["a photo of a {}."]


def test_a_table_without_splits_is_split_as_its_images_are(table, make_folder, tmp_path):
    root = make_folder(tmp_path / "plain", splits=(), per_class=8)
    rows = [(p.relative_to(root).as_posix(), p.parent.name) for p in sorted(root.rglob("*.png"))]
    random.Random(0).shuffle(rows)
    lines = [f"{path},{label}\n" for path, label in rows]
    (root / "t.csv").write_text("file,class\n" + "".join(lines))
    assert Dataset.load(root / "t.csv").parts() == Dataset.load(root).parts()


def test_columns_encoding_delimiter_and_root_can_be_said(table, tmp_path):
    path = table("t.csv", columns=("label", "path", "group"), delimiter="#")
    text = path.read_text().replace("label", "Art", 1).replace("eel", "Äl")
    (path.parent / "train").rename(path.parent / "tmp")
    for split in ("tmp", "val", "test"):
        (path.parent / split / "eel").rename(path.parent / split / "Äl")
    (path.parent / "tmp").rename(path.parent / "train")
    moved = tmp_path / "elsewhere.csv"
    moved.write_text(text, encoding="cp1252")
    card = tmp_path / "card.yaml"
    card.write_text(
        "name: tiere\nsource: csv\nfile: elsewhere.csv\nroot: pictures\nlabel: Art\n"
        'delimiter: "#"\nencoding: cp1252\nclasses: {Äl: [eel, sea snake], cat: cat, dog: dog}\n'
    )
    data = Dataset.load(card)
    assert data.classes == ["eel", "cat", "dog"]
    assert sum(map(len, data.parts().values())) == 54
    assert data.train[0].group is not None


def test_numbers_as_labels_are_in_their_order(make_folder, tmp_path):
    root = make_folder(tmp_path / "d", splits=(), classes=("10", "9", "2"))
    rows = "".join(f"{p.relative_to(root)},{p.parent.name}\n" for p in sorted(root.rglob("*.png")))
    (root / "t.csv").write_text(f"path,label\n{rows}")
    assert Dataset.load(root / "t.csv").classes == ["2", "9", "10"]


def test_a_group_falls_into_one_split(make_folder, tmp_path):
    root = make_folder(tmp_path / "d", splits=(), per_class=30)
    paths = sorted(root.rglob("*.png"))
    # Patients with three images of a class, and some with images of two classes.
    patient = {p: f"p{int(p.stem) // 3}-{p.parent.name if int(p.stem) > 5 else ''}" for p in paths}
    rows = "".join(f"{p.relative_to(root)},{p.parent.name},{patient[p]}\n" for p in paths)
    (root / "t.csv").write_text(f"path,label,patient_id\n{rows}")
    data = Dataset.load(root / "t.csv")
    where = {}
    for split, items in data.parts().items():
        for item in items:
            assert item.group == patient[Path(item.path)]
            where.setdefault(item.group, set()).add(split)
    assert {len(splits) for splits in where.values()} == {1}
    assert set.union(*where.values()) == set(PARTS)
    without = (root / "t.csv").read_text().replace("patient_id", "remark")
    (root / "t.csv").write_text(without)
    assert Dataset.load(root / "t.csv").parts() != data.parts()


def split_file(folder, rows, images="images"):
    """Write a split file of the CoOp protocol and its (empty) images."""
    for items in rows.values():
        for path, _, _ in items:
            (folder / images / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / images / path).write_bytes(b"")
    (folder / "split_zhou_Made.json").write_text(json.dumps(rows))
    return folder / "split_zhou_Made.json"


# An excerpt: 3 of EuroSAT's classes with 30 images, as its split file is made; and what the
# published code draws from it (random.sample of the items of each label, train then val).
LAND = ["Annual Crop Land", "Forest", "Sea or Lake"]
EXCERPT = {
    split: [
        [f"{name.split()[0]}/{split}_{n}.jpg", label, name]
        for label, name in enumerate(LAND)
        for n in random.Random(label).sample(range(count), count)
    ]
    for split, count in (("train", 20), ("val", 6), ("test", 4))
}


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("shots", [1, 16])
def test_a_published_split_gives_the_published_subsets(tmp_path, shots, seed):
    path = split_file(tmp_path, EXCERPT)
    for where in (path, tmp_path):
        data = Dataset.load(where)
        assert data.classes == LAND
        stream = random.Random(seed)
        expected = {}
        for split, count in (("train", shots), ("val", min(shots, 4))):
            groups = [[r[0] for r in EXCERPT[split] if r[1] == label] for label in range(3)]
            expected[split] = [p for group in groups for p in stream.sample(group, count)]
        drawn = data.few_shot(shots, seed)
        for split, paths in expected.items():
            items = getattr(drawn, split)
            assert [Path(i.path) for i in items] == [tmp_path / "images" / p for p in paths]


def test_the_eurosat_card_reads_the_split_file_below_the_data_folder(tmp_path):
    (tmp_path / "eurosat").mkdir()
    names = list(catalog.find_dataset("eurosat").names_of(c)[0] for c in
                 catalog.find_dataset("eurosat").classes)  # fmt: skip
    rows = {s: [[f"{n}/{s}.jpg", i, n] for i, n in enumerate(names)] for s in PARTS}
    split_file(tmp_path / "eurosat", rows, "2750").rename(
        tmp_path / "eurosat" / "split_zhou_EuroSAT.json"
    )
    data = Dataset.load("eurosat", data_dir=str(tmp_path))
    assert data.classes == names
    assert data.task().texts()[0] == ["a centered satellite photo of Annual Crop Land."]


def test_a_published_split_downloads_nothing_unasked(tmp_path, monkeypatch):
    import torchvision.datasets

    def refuse(*args, **kwargs):
        raise AssertionError("a download")

    monkeypatch.setattr(torchvision.datasets, "DTD", refuse)
    (tmp_path / "dtd").mkdir()
    path = split_file(tmp_path / "dtd", EXCERPT)
    shutil.rmtree(tmp_path / "dtd" / "images")
    path.rename(tmp_path / "dtd" / "split_zhou_DescribableTextures.json")
    with pytest.raises(InputError) as caught:
        Dataset.load("dtd", data_dir=str(tmp_path))
    first = EXCERPT["train"][0][0]
    for place in ("dtd/images", "dtd/dtd/images"):
        assert f"  {tmp_path / place / first}\n" in str(caught.value)
    assert "Put the images into dtd/images" in " ".join(str(caught.value).split())


def test_a_download_that_is_allowed_is_torchvisions(tmp_path, monkeypatch):
    import torchvision.datasets

    def fetch(root, download):
        assert download
        split_file(Path(root) / "dtd", EXCERPT, "dtd/images")

    monkeypatch.setattr(torchvision.datasets, "DTD", fetch)
    (tmp_path / "dtd").mkdir()
    text = json.dumps(EXCERPT)
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").write_text(text)
    data = Dataset.load("dtd", data_dir=str(tmp_path), download=True)
    assert (len(data.train), len(data.val), len(data.test)) == (60, 18, 12)


def subset_card(folder, file, of, more=""):
    (folder / "subset.yaml").write_text(
        f"name: again\nsource: indices\nfile: {file}\nof: {of}\n{more}"
    )
    return folder / "subset.yaml"


def test_a_subset_is_used_as_given(animals, tmp_path):
    base = Dataset.load(animals)
    first = base.few_shot(2, seed=5)
    rows = first.manifest(base.classes)
    random.Random(1).shuffle(rows)
    elsewhere = [{**r, "path": f"/another/machine/{n}.png"} for n, r in enumerate(rows)]
    pool = {s: getattr(base, s) for s in ("train", "val")}
    forms = {
        "rows.jsonl": "\n".join(map(json.dumps, rows)),
        "digests.jsonl": "\n".join(map(json.dumps, elsewhere)),
        "paths.json": {s: [r["path"] for r in rows if r["split"] == s] for s in pool},
    }
    given = {s: [i for r in rows if r["split"] == s for i in pool[s] if i.path == r["path"]]
             for s in pool}  # fmt: skip
    forms["positions.json"] = {s: [pool[s].index(i) for i in given[s]] for s in pool}
    several = {"shots=1": {}, "shots=2": forms["paths.json"]}
    forms["several.json"] = several
    for name, content in forms.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text)
        more = "key: shots=2\n" if name == "several.json" else ""
        data = Dataset.load(subset_card(tmp_path, name, animals, more))
        for seed in (1, 2):
            drawn = data.few_shot(16, seed)
            assert (drawn.train, drawn.val) == (given["train"], given["val"]), name
        assert drawn.notes == ["the subset is used as given: 6 training images, 2 to 2 a class"]
        assert data.test == base.test


def test_a_subset_of_a_card_speaks_as_the_card_does(animals, tmp_path, run_cli):
    card = tmp_path / "zoo.yaml"
    card.write_text(
        f"name: zoo\nsource: folder\nroot: {animals}\ntemplates: ['the {{}}']\n"
        "classes: {cat: tabby, dog: hound, eel: eel}\n"
    )
    paths = [i.path for i in Dataset.load(card).few_shot(1).train]
    (tmp_path / "subset.json").write_text(json.dumps({"train": paths}))
    data = Dataset.load(subset_card(tmp_path, "subset.json", "zoo.yaml"))
    assert data.task().texts() == [["the tabby"], ["the hound"], ["the eel"]]
    assert [i.path for i in data.few_shot(4).train] == paths


def npz(folder, flag="breastmnist", size=28, channels=(), classes=2, counts=(6, 2, 4)):
    """Write a file as MedMNIST's are; return its images by split."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    arrays, made = {}, {}
    for split, count in zip(PARTS, counts, strict=True):
        made[split] = rng.integers(0, 256, (count, size, size, *channels), dtype=np.uint8)
        arrays[f"{split}_images"] = made[split]
        arrays[f"{split}_labels"] = (np.arange(count) % classes)[:, None].astype(np.uint8)
    name = flag if size == 28 else f"{flag}_{size}"
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    return made


@pytest.mark.parametrize(("size", "channels"), [(28, ()), (64, (3,))])
def test_medmnist_files_become_images_once(tmp_path, size, channels, monkeypatch):
    made = npz(tmp_path / "medmnist", size=size, channels=channels)
    card = catalog.find_dataset("breastmnist", {"size": size})
    data = Dataset.from_card(card, data_dir=str(tmp_path))
    assert data.classes == ["a malignant tumor", "no malignant tumor"]
    for split, items in data.parts().items():
        assert [i.label for i in items] == [n % 2 for n in range(len(items))]
        for item, expected in zip(items, made[split], strict=True):
            assert np.array_equal(np.asarray(Image.open(item.path)), expected)
    medmnist = importlib.import_module("clip_adapt.data.sources.medmnist")
    monkeypatch.setattr(medmnist, "_make_saver", None)
    assert Dataset.from_card(card, data_dir=str(tmp_path)).parts() == data.parts()
    name = "breastmnist" if size == 28 else f"breastmnist_{size}"
    by_path = Dataset.load(tmp_path / "medmnist" / f"{name}.npz")
    assert by_path.classes == data.classes and by_path.parts() == data.parts()


def test_a_missing_medmnist_file_says_what_to_put_where(tmp_path, monkeypatch):
    with pytest.raises(InputError) as caught:
        Dataset.load("pathmnist", data_dir=str(tmp_path))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'medmnist' / 'pathmnist.npz'} is missing. Put ")
    assert "download=true" in message and "pip install 'clip-adapt[medmnist]'" in message
    monkeypatch.setitem(sys.modules, "medmnist", None)
    with pytest.raises(InputError, match="needs the package medmnist: pip install"):
        Dataset.load("pathmnist", data_dir=str(tmp_path), download=True)


def aircraft(root):
    """Write a data set as FGVC-Aircraft's archive unpacks."""
    folder = root / "fgvc-aircraft-2013b" / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "variants.txt").write_text("707-320\nA300 B4\n")
    number, expected = 0, {}
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        lines = []
        for name in ("A300 B4", "707-320") * count:
            lines.append(f"{number:07d} {name}")
            (folder / "images" / f"{number:07d}.jpg").write_bytes(b"")
            number += 1
        (folder / f"images_variant_{split}.txt").write_text("\n".join(lines) + "\n")
        expected[split] = [(f"{line.split()[0]}.jpg", line.split(" ", 1)[1]) for line in lines]
    return expected


def test_torchvisions_files_are_used_where_they_lie(tmp_path):
    expected = aircraft(tmp_path)
    data = Dataset.load("fgvc_aircraft", data_dir=str(tmp_path))
    assert data.classes == ["707-320", "A300 B4"]
    images = tmp_path / "fgvc-aircraft-2013b" / "data" / "images"
    assert labelled(data, images) == expected


def torchvision_card(tmp_path, name):
    (tmp_path / "card.yaml").write_text(f"name: it\nsource: torchvision\ndataset: {name}\nroot: .")
    return tmp_path / "card.yaml"


def test_a_torchvision_set_without_splits_is_split_by_content(make_folder, tmp_path):
    make_folder(tmp_path / "eurosat" / "2750", splits=())
    make_folder(tmp_path / "caltech101" / "101_ObjectCategories", splits=())
    for folder in (tmp_path / "caltech101" / "101_ObjectCategories").iterdir():
        for n, path in enumerate(sorted(folder.iterdir()), 1):
            Image.open(path).save(folder / f"image_{n:04d}.jpg")
            path.unlink()
    (tmp_path / "caltech101" / "101_ObjectCategories" / "BACKGROUND_Google").mkdir()
    for name in ("EuroSAT", "Caltech101"):
        data = Dataset.load(torchvision_card(tmp_path, name))
        assert data.classes == ["cat", "dog", "eel"]
        assert [len(items) for items in data.parts().values()] == [9, 3, 6]
        assert all(Path(i.path).parent.name == data.classes[i.label] for i in data.train)


def test_pets_are_read_from_torchvisions_lists(tmp_path):
    folder = tmp_path / "oxford-iiit-pet"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for split in ("trainval", "test"):
        rows = [f"Abyssinian_{split} 1 1 1", f"beagle_{split} 2 2 1"]
        (folder / "annotations" / f"{split}.txt").write_text("\n".join(rows))
    for split in ("trainval", "test"):
        for name in ("Abyssinian", "beagle"):
            colour = (len(name) * 20, len(split) * 20, 0)
            Image.new("RGB", (8, 8), colour).save(folder / "images" / f"{name}_{split}.jpg")
    data = Dataset.load(torchvision_card(tmp_path, "OxfordIIITPet"))
    assert data.classes == ["Abyssinian", "Beagle"]
    assert [Path(i.path).name for i in data.train] == ["Abyssinian_trainval.jpg",
                                                       "beagle_trainval.jpg"]  # fmt: skip


def test_cifars_arrays_become_images(tmp_path, monkeypatch):
    import torchvision.datasets

    class Small:
        classes = ("frog", "ship")

        def __init__(self, root, train):
            rng = np.random.default_rng(train)
            shape = (6 if train else 4, 32, 32, 3)
            self.pixels = rng.integers(0, 256, shape, dtype=np.uint8)

        def __len__(self):
            return len(self.pixels)

        def __getitem__(self, index):
            return Image.fromarray(self.pixels[index]), index % 2

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Small)
    data = Dataset.load("cifar10", data_dir=str(tmp_path), cache_dir=str(tmp_path / "c"))
    assert data.classes == ["frog", "ship"]
    assert (len(data.train), len(data.val), len(data.test)) == (6, 0, 4)
    for train, items in ((True, data.train), (False, data.test)):
        for item, expected in zip(items, Small("", train).pixels, strict=True):
            assert np.array_equal(np.asarray(Image.open(item.path)), expected)


def test_a_torchvision_set_that_is_missing_or_unknown(tmp_path):
    with pytest.raises(InputError) as caught:
        Dataset.load("cifar100", data_dir=str(tmp_path))
    assert str(caught.value).startswith(f"CIFAR100 is not in {tmp_path}: Dataset not found")
    assert "download=true fetches it" in str(caught.value)
    with pytest.raises(InputError, match=r"unknown data set of torchvision 'DTT' - did you mean"):
        Dataset.load(torchvision_card(tmp_path, "DTT"))


def test_the_library_datasets_gives_the_images_own_bytes(animals, tmp_path):
    pytest.importorskip("datasets.features")  # a folder of this name is no library
    datasets = pytest.importorskip("datasets")
    made = {}
    for split in ("train", "test"):
        paths = sorted((animals / split).rglob("*.png"))
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "eel"])}
        )
        rows = {"image": [str(p) for p in paths], "label": [p.parent.name for p in paths]}
        made[split] = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(made).save_to_disk(tmp_path / "hf")
    card = tmp_path / "card.yaml"
    card.write_text(f"name: hf\nsource: huggingface\nrepo: {tmp_path / 'hf'}\n")
    data = Dataset.load(card)
    expected = Dataset.load(animals)
    for split in ("train", "test"):
        ours = [(hash_file(i.path), i.label) for i in getattr(data, split)]
        assert ours == [(hash_file(i.path), i.label) for i in getattr(expected, split)]
    assert data.val == []
    assert data.inventory.columns == {"image": "image", "label": "label"}
    card.write_text(f"name: hf\nsource: huggingface\nrepo: {tmp_path / 'hf'}\nimage: picture\n")
    with pytest.raises(InputError, match="has no column 'picture'"):
        Dataset.load(card)


def test_a_split_of_which_the_labels_are_kept_back_is_refused(animals, tmp_path):
    pytest.importorskip("datasets.features")
    datasets = pytest.importorskip("datasets")
    kinds = datasets.ClassLabel(names=["cat", "dog", "eel"])
    features = datasets.Features({"image": datasets.Image(), "label": kinds})
    made = {}
    for split, label in (("train", None), ("validation", None), ("test", -1)):
        paths = sorted((animals / split.removesuffix("idation")).rglob("*.png"))
        labels = [kinds.str2int(p.parent.name) if label is None else label for p in paths]
        rows = {"image": [str(p) for p in paths], "label": labels}
        made[split] = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(made).save_to_disk(tmp_path / "hf")
    card = tmp_path / "card.yaml"
    card.write_text(f"name: hf\nsource: huggingface\nrepo: {tmp_path / 'hf'}\n")
    with pytest.raises(InputError, match=r"without a label in what is test here \(label is -1\)"):
        Dataset.load(card)
    card.write_text(card.read_text() + "splits: {train: train, test: validation}\n")
    assert len(Dataset.load(card).test) == len(Dataset.load(animals).val)


def test_a_missing_library_datasets_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "card.yaml").write_text("name: hf\nsource: huggingface\nrepo: a/b\n")
    with pytest.raises(InputError, match=r"pip install 'clip-adapt\[huggingface\]'"):
        Dataset.load(tmp_path / "card.yaml")


@pytest.mark.parametrize("name", cards.list_cards("dataset"))
def test_every_card_can_be_read(name, tmp_path):
    card = catalog.find_dataset(name)
    assert card.name == name
    assert card.licence and card.citation and card.description
    assert card.templates and all("{}" in t for t in card.templates)
    if name != "eyes":
        assert card.on_leak == "warn"
        with pytest.raises(InputError) as caught:
            Dataset.load(name, data_dir=str(tmp_path / "none"))
        assert str(tmp_path / "none") in str(caught.value)
        assert "ut " in str(caught.value) or "download=true" in str(caught.value)
    assert not (tmp_path / "none").exists()


def test_the_cards_of_the_protocol_are_there():
    published = {
        "imagenet": 1000, "caltech101": 0, "oxford_pets": 0, "stanford_cars": 0, "flowers102": 0,
        "food101": 0, "fgvc_aircraft": 0, "sun397": 0, "dtd": 0, "eurosat": 10, "ucf101": 0,
        "pathmnist": 9, "dermamnist": 7, "retinamnist": 5, "bloodmnist": 8, "octmnist": 4,
        "pneumoniamnist": 2, "breastmnist": 2, "eyes": 13,
    }  # fmt: skip
    for name, classes in published.items():
        assert len(catalog.find_dataset(name).classes) == classes


def test_our_folder_of_cards_is_not_taken_for_the_library(monkeypatch, tmp_path):
    kept = [name for name in sys.modules if name.split(".")[0] == "datasets"]
    for name in kept:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "datasets").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    card = DataCard("x", "huggingface", options={"repo": "a/b"})
    with pytest.raises(InputError, match=r"needs the package datasets: pip install"):
        Dataset.from_card(card)
