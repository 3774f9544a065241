"""Base to new, cross data set, and test images that nothing reads before evaluation."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import clip_adapt
from clip_adapt.data import decoding
from clip_adapt.data.dataset import Dataset
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.evaluation import classification, measuring, protocols
from clip_adapt.method import finding
from clip_adapt.method.contract import Method
from clip_adapt.objectives import classify
from clip_adapt.runs import configuration, preparation
from clip_adapt.runs.output import folder

FIVE = ("ant", "bee", "cat", "dog", "eel")


@pytest.fixture
def five(make_folder, tmp_path):
    """A folder of five classes."""
    return make_folder(tmp_path / "five", classes=FIVE, per_class=6)


@pytest.fixture
def adapt(tiny_model, tmp_path, monkeypatch):
    """A function that adapts the tiny CLIP to a folder: the finished classifier."""
    monkeypatch.setattr("clip_adapt.evaluation.resampling.RESAMPLES", 20)

    def train(folder, **options):
        usual = {"method": "coop", "shots": 2, "epochs": 2, "tensorboard": False} | options
        usual |= {"model": tiny_model, "device": "cpu", "output": str(tmp_path / "run")}
        return clip_adapt.adapt(folder, **usual)

    return train


def accuracy(backbone, weights, folder, names):
    """Return the accuracy of class weights on the test folders of these names, plainly."""
    hits = []
    for label, name in enumerate(names):
        for path in sorted((folder / "test" / name).iterdir()):
            pixels = backbone.preprocess(decoding.decode(path))[None]
            z = backbone.encode_image(pixels)
            hits.append(int((z @ weights.T).argmax()) == label)
    return np.mean(hits)


def test_base_to_new_measures_the_trained_context_on_new_classes(adapt, five, tmp_path):
    model = adapt(five, protocol="base_to_new")
    assert model.classes == ["ant", "bee", "cat"]
    support = [
        json.loads(line) for line in (tmp_path / "run/support.jsonl").read_text().splitlines()
    ]
    assert {row["label"] for row in support} == {"ant", "bee", "cat"}
    found, backbone = model.metrics, model.backbone
    assert found["protocol"] == "base_to_new"
    names = [f"{name}." for name in ("dog", "eel")]
    with torch.no_grad():
        new = backbone.encode_prompts(model.method.ctx, names)
        plain = backbone.encode_text(["a photo of a dog.", "a photo of a eel."])
        base = backbone.encode_prompts(model.method.ctx, [f"{name}." for name in model.classes])
        expected = {
            "base": accuracy(backbone, base, five, FIVE[:3]),
            "new": accuracy(backbone, new, five, FIVE[3:]),
            "zero_shot": accuracy(backbone, plain, five, FIVE[3:]),
        }
    other = found["other"]["new"]
    assert (found["n_test"], other["n_test"]) == (18, 12)
    assert list(other["per_class"]) == ["dog", "eel"]
    assert found["test"]["accuracy"]["value"] == pytest.approx(expected["base"])
    assert other["test"]["accuracy"]["value"] == pytest.approx(expected["new"])
    assert other["zero_shot"]["accuracy"]["value"] == pytest.approx(expected["zero_shot"])
    a, b = expected["base"], expected["new"]
    mean = found["harmonic_mean"]["test"]
    assert mean["value"] == pytest.approx(2 * a * b / (a + b))
    assert mean["low"] <= mean["value"] <= mean["high"]


def test_the_harmonic_mean_of_zero_is_zero():
    def measured(right):
        labels = np.array([0, 1] * 10)
        p = np.eye(2)[labels if right else 1 - labels]
        return measuring.measure(labels, p, ["a", "b"])

    both = protocols.measure_harmonic_mean(measured(True), measured(True))
    assert both == {"value": 1, "low": 1, "high": 1}
    assert protocols.measure_harmonic_mean(measured(True), measured(False))["value"] == 0
    assert protocols.measure_harmonic_mean(measured(False), measured(False))["value"] == 0


def test_the_base_half_is_the_larger_and_keeps_the_draw_over_all_classes(five):
    dataset = Dataset.load(five)
    base, new = protocols.split_classes(dataset)
    assert (base.classes, new.classes) == (["ant", "bee", "cat"], ["dog", "eel"])
    assert {(i.path.split("/")[-2], i.label) for i in new.test} == {("dog", 0), ("eel", 1)}
    assert len(base.train) + len(new.train) == len(dataset.train)
    whole = dataset.few_shot(3, seed=5)
    part = protocols.keep_classes(whole, 3)
    assert part.train == [i for i in whole.train if i.label < 3]
    assert part.val == [i for i in whole.val if i.label < 3]
    assert len(part.val) == 9


def test_a_method_that_is_tied_to_its_classes_is_refused_before_anything(adapt, five, tmp_path):
    for options in ({"method": "linear_probe"}, {"method": "coop", "method.csc": True}):
        with pytest.raises(InputError) as caught:
            adapt(five, protocol="base_to_new", **options)
        assert str(caught.value).startswith(
            "protocol=base_to_new asks for classes that were not trained, and what "
            f"method={options['method']} trains (with these options) belongs to its own classes."
        )
        assert not (tmp_path / "run").exists()


def test_base_to_new_with_too_few_classes(adapt, animals):
    with pytest.raises(InputError, match=r"at least four classes, .* animals has 3: cat, dog"):
        adapt(animals, protocol="base_to_new")


def test_cross_dataset_measures_elsewhere_with_the_classes_there(
    adapt, five, make_folder, tmp_path
):
    there = make_folder(tmp_path / "there", classes=("owl", "yak"), per_class=4, seed=3)
    model = adapt(five, protocol="cross_dataset", test_on=str(there))
    assert model.classes == list(FIVE)
    other = model.metrics["other"]["there"]
    with torch.no_grad():
        weights = model.backbone.encode_prompts(model.method.ctx, ["owl.", "yak."])
        expected = accuracy(model.backbone, weights, there, ("owl", "yak"))
    assert other["test"]["accuracy"]["value"] == pytest.approx(expected)
    assert (other["n_test"], list(other["per_class"])) == (8, ["owl", "yak"])
    assert "harmonic_mean" not in model.metrics


def test_the_folder_of_a_protocol_is_its_own(train_tiny, five, tiny_model):
    config = configuration.compose(
        {"dataset": str(five), "model": tiny_model, "protocol": "base_to_new", "shots": 2}
    )
    assert folder.choose_folder(config).name.endswith("-2shot-seed1-base_to_new")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("protocol=cross_dataset",), "protocol=cross_dataset needs test_on=DATASET, or test_on=["),
        (("test_on=eyes",), "test_on is given without protocol=cross_dataset: add it, or drop"),
        (("protocol=cross", "test_on=eyes"), "protocol=cross: expected one of few_shot, base_to_n"),
        (("protocol=cross_dataset", "test_on=eyez"), "unknown data set 'eyez' - did you mean 'eye"),
    ],
)
def test_protocols_that_cannot_be(train_tiny, animals, words, message, tmp_path):
    code, _, err = train_tiny(animals, *words)
    assert code == 2
    assert err.startswith(f"error: {message}")
    assert not (tmp_path / "out").exists()


def test_a_method_refuses_other_classes_by_default(tiny_backbone):
    plain = Method(tiny_backbone, Task(("cat", "dog")))
    with pytest.raises(InputError) as caught:
        plain.for_task(Task(("owl", "yak")))
    assert str(caught.value) == (
        "what Method trains belongs to its own classes (cat, dog) and cannot be used on others"
    )


def test_the_trained_state_goes_to_other_classes(tiny_backbone):
    options = {"n_ctx": 3}
    trained = finding.find_method("coop").cls(tiny_backbone, Task(("cat", "dog")), **options)
    torch.nn.init.normal_(trained.ctx)
    moved = trained.for_task(Task(("owl", "yak", "ant")))
    with torch.no_grad():
        expected = tiny_backbone.encode_prompts(trained.ctx, ["owl.", "yak.", "ant."])
        assert torch.equal(moved.weights(), expected)
    assert moved.ctx is not trained.ctx


class Sealed(list):
    """Test items that nobody may look at before they are unsealed."""

    is_sealed = True

    def look(self, look):
        assert not self.is_sealed, "a test item was read"
        return look()

    def __iter__(self):
        return self.look(super().__iter__)

    def __len__(self):
        return self.look(super().__len__)

    def __getitem__(self, index):
        return self.look(lambda: list(self)[index])

    def __contains__(self, item):
        return self.look(lambda: item in list(self))


@pytest.fixture
def sealed(monkeypatch, tmp_path):
    """Seal the test split of ``own`` between the check of the data and the evaluation.

    The items raise when they are looked at, and their files are gone; both come back when the
    evaluation begins. Returns the log of what happened.
    """
    log, real = [], {}
    hidden, folder = tmp_path / "hidden", tmp_path / "own" / "test"
    check, measure = preparation.check_images, classification.measure_beside_zero_shot

    def seal(*args):
        checked = check(*args)
        real["test"] = Sealed(checked.data.dataset.test)
        sets = {
            k: replace(getattr(checked.data, k), test=real["test"]) for k in ("pool", "dataset")
        }
        folder.rename(hidden)
        log.append("sealed")
        return replace(checked, data=replace(checked.data, **sets))

    def unseal(*args, **kwargs):
        assert log == ["sealed", "calibrated"]
        hidden.rename(folder)
        real["test"].is_sealed = False
        log.append("evaluated")
        return measure(args[0], real["test"], *args[2:], **kwargs)

    calibrate = classify._calibrate

    def note(*args):
        log.append("calibrated")
        return calibrate(*args)

    monkeypatch.setattr(preparation, "check_images", seal)
    monkeypatch.setattr(classify, "_calibrate", note)
    monkeypatch.setattr(classification, "measure_beside_zero_shot", unseal)
    return log


@pytest.mark.parametrize("name", finding.list_methods())
@pytest.mark.parametrize("select", ["last", "val"])
def test_nothing_reads_a_test_image_before_evaluation(
    adapt, sealed, make_folder, tmp_path, name, select
):
    own = make_folder(tmp_path / "own", per_class=8)
    after = {"guard": True, "calibrate": True, "conformal": 0.2}
    model = adapt(own, method=name, epochs=1, select=select, cache=False, **after)
    assert sealed == ["sealed", "calibrated", "evaluated"]
    assert model.metrics["n_test"] == 24


def test_a_method_that_looks_at_test_images_is_caught(adapt, sealed, make_folder, tmp_path):
    own = make_folder(tmp_path / "own", per_class=8)
    spy = tmp_path / "spy.py"
    spy.write_text(
        "from pathlib import Path\n"
        "from clip_adapt import Method\nfrom clip_adapt.data import decoding\n"
        "class Spy(Method):\n"
        "    def fit(self, z, y):\n"
        f"        decoding.decode(next(Path({str(own)!r}).glob('test/*/*.png'), 'gone'))\n"
    )
    with pytest.raises(InputError, match="gone"):
        adapt(own, method=str(spy), epochs=0)
    shutil.move(tmp_path / "hidden", own / "test")


def test_the_draws_hold_no_test_item(five):
    dataset = Dataset.load(five)
    support = replace(dataset, test=Sealed()).few_shot(4)
    tested = {item.path for item in dataset.test}
    assert tested.isdisjoint(item.path for item in (*support.train, *support.val))
    with pytest.raises(AssertionError, match="a test item was read"):
        list(replace(dataset, test=Sealed()).test)
