"""A folder of a user's own and a data set that ships, of one name: which one is taken is said."""

import json
from pathlib import Path

import pytest

import clip_adapt
from clip_adapt.data import catalog
from clip_adapt.data.dataset import Dataset
from clip_adapt.errors import InputError
from clip_adapt.runs.configuration import compose

CARD = "datasets/eyes"


@pytest.fixture
def own(make_folder, tmp_path):
    """A folder ./eyes of two classes in the working folder."""
    return make_folder(tmp_path / "eyes", splits=(), classes=("healthy", "ill"), per_class=4)


def classes_of(name):
    """Return the classes of the folder that a name stands for."""
    return Dataset.from_card(catalog.find_dataset(name)).classes


def test_a_folder_of_images_comes_before_a_card(own, caplog):
    assert classes_of("eyes") == ["healthy", "ill"]
    assert caplog.messages == [
        f"dataset=eyes is the folder of that name here, {own}; the data set of that name that "
        f"ships is dataset={CARD}"
    ]
    assert catalog.find_dataset(CARD).source == "drawn"
    assert classes_of("./eyes") == ["healthy", "ill"]
    catalog.find_dataset("eyes")  # looked up again, said once
    assert len(caplog.messages) == 1


def test_without_such_a_folder_nothing_is_said(caplog, tmp_path):
    for name in ("eyes", CARD):
        assert catalog.find_dataset(name).source == "drawn"
    assert caplog.messages == []
    with pytest.raises(InputError, match="unknown data set 'datasets/eye'"):
        catalog.find_dataset("datasets/eye")


@pytest.mark.parametrize("kind", ["empty folder", "folder of a run", "file"])
def test_what_holds_no_classes_is_not_taken(tmp_path, caplog, kind):
    if kind == "file":
        (tmp_path / "eyes").write_bytes(b"")
    else:
        (tmp_path / "eyes" / "adapter").mkdir(parents=True)
        (tmp_path / "eyes" / "curve.png").write_bytes(b"" if kind == "empty folder" else b"x")
    assert catalog.find_dataset("eyes").source == "drawn"
    assert caplog.messages == [
        "dataset=eyes is the data set of that name that ships; what is called so here, "
        f"{tmp_path / 'eyes'}, is dataset=./eyes"
    ]


def test_the_images_of_a_card_are_no_other_data_set(make_folder, tmp_path, monkeypatch):
    make_folder(tmp_path / "eurosat" / "2750", splits=(), classes=("a", "b"), per_class=1)
    assert catalog.find_dataset("eurosat").source == "coop_split"
    (tmp_path / "eurosat" / "2750").rename(tmp_path / "eurosat" / "mine")
    assert catalog.find_dataset("eurosat").source == "folder"


def test_the_words_of_every_verb_and_of_python(
    own, animals, train_tiny, run_cli, tiny_model, tmp_path, caplog
):
    words = ["method=zero_shot", "shots=1"]
    assert train_tiny("eyes", *words)[0] == 0
    assert sum("is the folder of that name here" in m for m in caplog.messages) == 1
    assert run_cli("evaluate", "out/adapter", "dataset=eyes", f"model={tiny_model}")[0] == 0
    other = ["test_on=eyes", "protocol=cross_dataset", "output=other"]
    assert train_tiny(animals, *words, *other)[0] == 0
    assert list(json.loads((tmp_path / "other" / "metrics.json").read_text())["other"]) == ["eyes"]
    quick = {"method": "zero_shot", "shots": 1, "model": tiny_model, "tensorboard": False}
    for images in ("eyes", Path("eyes"), own, "./eyes"):
        assert clip_adapt.adapt(images, **quick, output="o").classes == ["healthy", "ill"]
    assert compose({"dataset": CARD}).dataset.source == "drawn"


def test_a_path_object_is_a_path(caplog):
    assert catalog.name_dataset(Path("eyes")) == "./eyes"
    assert catalog.name_dataset(Path("my/eyes")) == "my/eyes"
    assert catalog.name_dataset("eyes") == "eyes"
    with pytest.raises(InputError, match=r"unknown data set '\./eyes'"):
        Dataset.load(Path("eyes"))
