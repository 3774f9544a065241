"""What people do with a classifier in a notebook: the values they hand over, and what they see."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

import clip_adapt
from clip_adapt.adapted.classifier import Classifier
from clip_adapt.adapted.header import Header
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.method.contract import Method
from clip_adapt.system.run_files import PAGE

NAMES = ("cat", "dog", "eel")


class Anywhere(Method):
    """Zero-shot classification as a method that goes to other classes."""

    works_on_other_classes = True


@pytest.fixture(scope="module")
def model(tiny_backbone):
    return Classifier(Anywhere(tiny_backbone, Task(NAMES)))


@pytest.fixture(scope="module")
def paths(animals):
    """Three images."""
    return sorted(str(path) for path in (animals / "test").rglob("0.png"))


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


ONE = {
    "path": Path,
    "bytes": lambda path: Path(path).read_bytes(),
    "bytearray": lambda path: bytearray(Path(path).read_bytes()),
    "memoryview": lambda path: memoryview(Path(path).read_bytes()),
    "file object": lambda path: io.BytesIO(Path(path).read_bytes()),
    "picture": Image.open,
    "array": read,
    "array of one path": np.array,
    "floats": lambda path: read(path) / 255,
    "tensor": lambda path: torch.from_numpy(read(path).copy()),
    "tensor, colours first": lambda path: torch.from_numpy(read(path).copy()).permute(2, 0, 1),
}


@pytest.mark.parametrize("kind", ONE)
def test_one_image_in_any_form_is_one_answer(model, paths, kind):
    assert model.predict(ONE[kind](paths[0])) == model.predict(paths[0])
    assert np.array_equal(model.predict_proba(ONE[kind](paths[0])), model.predict_proba(paths[0]))
    assert torch.equal(model.encode_image(ONE[kind](paths[0])), model.encode_image(paths[0]))


SEVERAL = {
    "tuple": tuple,
    "keys of a dict": lambda paths: dict.fromkeys(paths).keys(),
    "generator": lambda paths: (path for path in paths),
    "map": lambda paths: map(Path, paths),
    "array of paths": np.array,
    "array of objects": lambda paths: np.array([Path(path) for path in paths], dtype=object),
    "column": pandas.Series,
    "index": pandas.Index,
    "array": lambda paths: np.stack([read(path) for path in paths]),
    "tensor": lambda paths: torch.from_numpy(np.stack([read(path) for path in paths])),
    "mixed": lambda paths: [paths[0], read(paths[1]), io.BytesIO(Path(paths[2]).read_bytes())],
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_images_in_any_form_are_their_answers(model, paths, kind):
    model.conformal = {"alpha": 0.2, "lac": 0.7, "aps": 0.6, "n": 20}
    assert model.predict(SEVERAL[kind](paths)) == model.predict(paths)
    assert model.predict_sets(SEVERAL[kind](paths)) == model.predict_sets(paths)
    expected = [[dict(ranking)[name] for name in NAMES] for ranking in model.predict(paths)]
    given = model.predict_proba(SEVERAL[kind](paths))
    assert given.shape == (3, 3) and given.tolist() == expected


def test_no_image_at_all_is_no_answer(model):
    assert model.predict([]) == [] and model.predict(iter([])) == []
    assert model.predict_proba([]).shape == (0, 3)
    assert model.encode_image([]).shape == model.encode_text([]).shape == (0, 16)


def test_transformed_pixels_are_taken_as_they_are(model, paths):
    pixels = next(model.batches(paths))
    assert torch.equal(model.encode_image(pixels), model.encode_image(paths))


@pytest.mark.parametrize(
    "images", ["a.png", ["a.png"], np.zeros((1, 3, 8, 8)), torch.zeros(3, 8, 8)]
)
def test_images_that_are_no_pixels_are_sent_to_what_takes_them(model, images):
    for use in (model.probabilities, model.logits):
        with pytest.raises(InputError, match="predict_proba and predict take images") as caught:
            use(images)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (None, "not None"),
        (7, "not int"),
        ({"a.png"}, "not set"),
        ({"image": "a.png"}, "not dict"),
        (pandas.DataFrame({"path": ["a.png"]}), "not pandas.DataFrame"),
        ([["a.png"]], "an image is a path, .*, not list"),
        ([None], "not None"),
        ([("a.png", 1)], "not tuple"),
        (np.array([["a.png"]]), "an array of paths or images has one axis, not 2"),
        (torch.zeros(2, 2, 3, 8, 8), r"not float32 \(2, 2, 3, 8, 8\)"),
        (torch.randn(3, 32, 32), "have no known range"),
        (np.zeros((0, 0, 3), np.uint8), "0 x 0 pixels: too small"),
        (np.zeros((1000, 5, 3), np.uint8), "more than 50 times as long as wide"),
        (b"the whole file", "these 14 bytes: this is no image that can be read"),
        (io.StringIO("text"), 'opened with "rb"'),
        (io.BytesIO(), "the file is empty"),
    ],
)
def test_what_is_no_image_is_refused_in_a_line(model, images, said):
    for use in (model.predict, model.predict_proba, model.predict_sets, model.encode_image):
        with pytest.raises(InputError, match=said) as caught:
            use(images)
        assert "\n" not in str(caught.value) and "whole file" not in str(caught.value)


def test_a_picture_that_is_cut_off_is_refused_in_a_line(model, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:900])
    with Image.open(tmp_path / "cut.jpg") as cut:
        for given in (cut, tmp_path / "cut.jpg"):
            with pytest.raises(InputError, match="damaged: image file is truncated"):
                model.predict(given)


@pytest.mark.parametrize(
    ("top_k", "count"), [(None, 3), (np.int64(2), 2), (torch.tensor(1), 1), (99, 3)]
)
def test_how_many_classes_are_wanted(model, paths, top_k, count):
    assert len(model.predict(paths[0], top_k=top_k)) == count
    assert len(next(iter(model.predict_files(paths[:1], top_k=top_k))).ranking) == count


@pytest.mark.parametrize("top_k", [0, -1, np.int64(0), True, 2.0, "3", [1]])
def test_what_is_no_number_of_classes(model, paths, top_k):
    shown = re.escape(repr(top_k) if isinstance(top_k, str | list) else str(top_k))
    for use in (model.predict, lambda paths, top_k: list(model.predict_files(paths, top_k=top_k))):
        with pytest.raises(InputError, match=f"top_k={shown}: expected a whole number, at least 1"):
            use(paths, top_k=top_k)


def test_one_text_is_a_text_and_not_its_letters(model):
    both = model.encode_text(["a dog", "a cat"])
    assert torch.equal(model.encode_text("a dog"), model.encode_text(["a dog"]))
    assert torch.equal(model.encode_text(np.array(["a dog", "a cat"])), both)
    assert torch.equal(model.encode_text(text for text in ("a dog", "a cat")), both)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (None, "texts: expected a text or a list of texts, not None"),
        (b"a dog", "not bytes"),
        ({"a dog"}, "not set"),
        (["a dog", 3], r"texts\[1\]: expected a text, not int"),
        (["a dog", float("nan")], r"texts\[1\]: expected a text, not float"),
        ([["a dog"]], r"texts\[0\]: expected a text, not list"),
    ],
)
def test_what_is_no_text_is_refused_in_a_line(model, texts, said):
    with pytest.raises(InputError, match=said):
        model.encode_text(texts)


@pytest.mark.parametrize("classes", [[0, 1], (0, 1), np.array([0, 1]), pandas.Series([0, 1])])
def test_numbers_are_names_as_they_are_written(tiny_backbone, model, classes):
    assert clip_adapt.zero_shot(classes, model=tiny_backbone).classes == ["0", "1"]
    assert model.for_classes(classes).classes == ["0", "1"]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ("cat", "classes='cat' is one text: expected a list of names"),
        ({"cat", "dog"}, "expected a list of names in an order, not set"),
        ({"cat": 1, "dog": 2}, "not dict"),
        (None, "not None"),
        (["cat", None], r"classes\[1\]: expected a name, not None"),
        (["cat", float("nan")], r"classes\[1\]: expected a name, not nan"),
        (["cat", ["dog"]], r"classes\[1\]: expected a name, not list"),
        (np.array([["cat", "dog"]]), "not numpy.ndarray"),
        (["cat", "\u3000"], "has no name"),
    ],
)
def test_what_is_no_list_of_names_is_refused_in_a_line(tiny_backbone, model, classes, said):
    for use in (lambda given: clip_adapt.zero_shot(given, model=tiny_backbone), model.for_classes):
        with pytest.raises(InputError, match=said):
            use(classes)


@pytest.mark.parametrize("template", [3, ["a {}", 3], None])
def test_a_template_is_a_text(tiny_backbone, model, template):
    with pytest.raises(InputError, match=r"template.*: expected a text"):
        clip_adapt.zero_shot(NAMES, template=template, model=tiny_backbone)
    if template is not None:
        with pytest.raises(InputError, match=r"template.*: expected a text"):
            model.for_classes(NAMES, template)


# What is shown.


def make_header(**facts):
    """Return what a delta says of itself."""
    task = {"classes": list(NAMES), "templates": ["a {}."], "shots": 4}
    return Header(
        method={"name": "coop", "options": {}}, backbone={}, task=task, transform={}, **facts
    )


@pytest.fixture
def shown(tiny_backbone, tmp_path):
    """A classifier of a run that wrote its page into a folder of an awkward name."""
    value = {"value": 0.7512, "low": 0.7, "high": 0.80049}
    metrics = {"test": {"balanced_accuracy": value, "auroc": {"value": None}},
               "zero_shot": {"balanced_accuracy": {**value, "value": 0.25}}}  # fmt: skip
    made = Classifier(Method(tiny_backbone, Task(NAMES)), make_header(dataset="<b>eyes"))
    folder = tmp_path / "a <run> & more"
    folder.mkdir()
    (folder / PAGE).write_text("")
    return made.adjust(metrics=metrics, folder=folder)


def test_a_line_says_what_a_classifier_is(shown, model):
    assert repr(shown) == (
        "Classifier(coop on <b>eyes, 4 shots; 3 classes: cat, dog, eel; backbone tiny; "
        "test balanced accuracy 0.751 [0.700, 0.800])"
    )
    assert repr(model) == "Classifier(Anywhere; 3 classes: cat, dog, eel; backbone tiny)"
    plain = clip_adapt.zero_shot(NAMES, model=model.backbone)
    assert repr(plain) == "Classifier(zero-shot; 3 classes: cat, dog, eel; backbone tiny)"
    many = model.for_classes([f"class {n}" for n in "abcdefg"])
    assert "; 7 classes: class a, class b, class c, class d, class e, ...;" in repr(many)
    assert "\x1b" not in repr(model.for_classes(["a\x1b[31m", "b"]))
    captions = Classifier(Method(model.backbone, Task(())))
    assert "no classes: give some with for_classes" in repr(captions)


def test_a_table_shows_all_metrics_and_links_the_page(shown, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    html = shown._repr_html_()
    assert "coop on &lt;b&gt;eyes, 4 shots" in html and "<b>" not in html
    cells = "<td>balanced accuracy</td><td>0.250 [0.700, 0.800]</td><td>0.751 [0.700, 0.800]</td>"
    assert cells in html
    assert "<td>auroc</td><td>not defined</td><td>not defined</td>" in html
    assert f'<a href="a%20%3Crun%3E%20%26%20more/{PAGE}">' in html and "<run>" not in html
    assert "<a " not in shown.adjust(folder=tmp_path)._repr_html_()  # which holds no page
    assert "<table>" not in model._repr_html_() and "Anywhere" in model._repr_html_()
