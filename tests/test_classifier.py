"""A classifier: what goes with it to other classes, what its images and texts pass through."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

import clip_adapt
from clip_adapt.adapted import delta
from clip_adapt.adapted.classifier import Classifier
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.method.contract import Method
from clip_adapt.method.finding import find_method

NAMES = ("cat", "dog", "eel")
OTHERS = ["owl", "yak"]
THRESHOLDS = {"alpha": 0.2, "lac": 0.7, "aps": 0.6, "n": 20}


class Turned(Method):
    """A method that turns features of images and of texts, each its own way."""

    works_on_other_classes = True

    def __init__(self, backbone, task):
        super().__init__(backbone, task)
        self.shift = torch.nn.Parameter(torch.ones(()))

    def encode_text(self, texts):
        return super().encode_text([f"{text}!" for text in texts])

    def image_features(self, z):
        return F.normalize(z.roll(1, dims=1) * self.shift, dim=1)

    def text_features(self, t):
        return F.normalize(t.roll(2, dims=1) * self.shift, dim=1)


@pytest.fixture
def turned(tiny_backbone):
    """A classifier of a task that differs from the usual one in everything."""
    task = Task(NAMES, ("art of a {}.", "the {}."), shots=7, seed=5)
    return Classifier(Turned(tiny_backbone, task).train())


@pytest.fixture
def paths(animals):
    """Five images."""
    return sorted(str(path) for path in (animals / "test").rglob("*.png"))[:5]


def test_a_classifier_is_in_eval_mode_whatever_the_method_was(turned):
    assert not turned.method.training


def test_what_goes_to_other_classes_and_what_stays(turned):
    turned.temperature, turned.guard, turned.conformal = 2.5, 0.25, THRESHOLDS
    other = turned.for_classes(OTHERS)
    assert other.classes == OTHERS
    assert (other.temperature, other.guard, other.conformal) == (2.5, 0.25, None)
    assert (other.method.task.shots, other.method.task.seed) == (7, 5)
    assert other.method is not turned.method and turned.classes == list(NAMES)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ("art of a {}.", "the {}.")),
        ("a {}!", ("a {}!",)),
        (["a {}!", "one {}!"], ("a {}!", "one {}!")),
    ],
)
def test_prompts_of_other_classes(turned, given, expected):
    assert turned.for_classes(OTHERS, given).method.task.templates == expected


@pytest.mark.parametrize(
    ("classes", "template", "message"),
    [
        (["owl"], None, "at least two"),
        (["owl", "owl"], None, "owl"),
        (OTHERS, "an owl", "no {} for the class name"),
    ],
)
def test_other_classes_that_cannot_be(turned, classes, template, message):
    with pytest.raises(InputError, match=message):
        turned.for_classes(classes, template)


def test_what_a_delta_says_is_what_a_classifier_has(tiny_backbone):
    made = find_method("coop").cls(tiny_backbone, Task(NAMES), n_ctx=2)
    said = {"temperature": 2.0, "guard": 0.5, "conformal": THRESHOLDS, "metrics": {"test": {}}}
    header = delta.describe(find_method("coop"), made, **said)
    model = Classifier(made, header)
    assert {name: getattr(model, name) for name in said} == said


def test_a_tuple_of_images_is_a_list_of_them(turned, paths):
    turned.conformal = THRESHOLDS
    assert turned.predict(tuple(paths)) == turned.predict(paths)
    assert turned.predict_sets(tuple(paths)) == turned.predict_sets(paths)
    assert len(turned.predict(tuple(paths[:1]))) == 1


def test_a_classifier_of_names_alone(tiny_backbone, paths):
    own = Classifier(Method(tiny_backbone, Task(NAMES, ("art of a {}.", "the {}."))))
    model = clip_adapt.zero_shot(NAMES, template=["art of a {}.", "the {}."], model=tiny_backbone)
    assert model.predict(paths) == own.predict(paths)
    with pytest.raises(InputError, match="at least two"):
        clip_adapt.zero_shot(["cat"], model=tiny_backbone)


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (2, 2), (3, 3), (99, 3)])
def test_no_more_classes_than_there_are_or_are_asked_for(turned, paths, top_k, count):
    (ranking,) = turned.predict(paths[:1], top_k=top_k)
    assert len(ranking) == count
    assert ranking == turned.predict(paths[0], top_k=99)[:count]


@pytest.mark.parametrize("top_k", [0, -1])
def test_no_class_at_all_cannot_be_asked_for(turned, paths, top_k):
    with pytest.raises(InputError, match=f"top_k={top_k}: expected a whole number, at least 1"):
        turned.predict(paths, top_k=top_k)


def test_images_go_through_in_batches_and_come_out_in_order(turned, paths, monkeypatch):
    alone = torch.cat([torch.cat(list(turned.batches([path]))) for path in paths])
    monkeypatch.setattr(
        "clip_adapt.adapted.classifier.features.choose_batch_size", lambda device: 2
    )
    batches = list(turned.batches(paths))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert torch.equal(torch.cat(batches), alone)


@pytest.mark.parametrize(
    "use",
    [
        lambda model, z: model.predict(z),
        lambda model, z: model.predict("no such image.png"),
        lambda model, z: model.logits(torch.zeros(1, 3, 32, 32)),
        lambda model, z: model.probabilities(torch.zeros(1, 3, 32, 32)),
        lambda model, z: model.logits_of_features(torch.zeros(1, 16)),
        lambda model, z: model.probabilities_of_features(torch.zeros(1, 16)),
    ],
)
def test_without_classes_everything_asks_for_some(tiny_backbone, paths, use):
    model = Classifier(Turned(tiny_backbone, Task(())))
    with pytest.raises(InputError, match="trained on captions and has no classes: give some"):
        use(model, paths)


def test_features_are_those_of_the_method_and_carry_no_gradient(turned, tiny_backbone):
    pixels, texts = torch.randn(2, 3, 32, 32), ["a cat", "a dog", "an eel"]
    images, words = turned.encode_image(pixels), turned.encode_text(texts)
    assert torch.allclose(images, tiny_backbone.encode_image(pixels).roll(1, dims=1))
    marked = tiny_backbone.encode_text(["a cat!", "a dog!", "an eel!"])
    assert torch.allclose(words, marked.roll(2, dims=1))
    answers = (turned.logits(pixels), turned.logits_of_features(images))
    assert not any(tensor.requires_grad for tensor in (images, words, *answers))


def test_probabilities_are_computed_in_single_precision(turned):
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    turned.temperature = 0.7
    expected = (logits.double() / 0.7).softmax(1)
    assert torch.allclose(turned.softmax(logits).double(), expected, rtol=0, atol=1e-6)


def test_half_precision_logits_are_mixed_in_single_precision(tiny_backbone):
    class Half(Method):
        def forward(self, z):
            return super().forward(z).flip(1).bfloat16()

    model = Classifier(Half(tiny_backbone, Task(NAMES)))
    z = F.normalize(torch.randn(4, 16), dim=1)
    assert model.logits_of_features(z).dtype == torch.float32
    model.guard = 0.3
    base = model.method.zero_shot_logits(z)
    expected = 0.7 * base.flip(1).bfloat16().float() + 0.3 * base
    assert torch.allclose(model.logits_of_features(z), expected, atol=1e-5)


@pytest.fixture(params=["zero_shot", "coop"])
def saved(request, tiny_backbone, tmp_path):
    """The folder of a delta with thresholds."""
    found = find_method(request.param)
    made = found.cls(tiny_backbone, Task(NAMES))
    header = delta.describe(found, made, conformal=THRESHOLDS)
    return delta.save(tmp_path / request.param, made, header, "").parent


def read_lines(result):
    code, out, err = result
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("as_file", [False, True])
def test_a_delta_predicts_among_other_classes_by_other_prompts(
    run_cli, saved, paths, as_file, tiny_model
):
    adapter = saved / delta.FILE if as_file else saved
    asked = ("json=true", f"classes=[{', '.join(OTHERS)}]")
    model = Classifier(*delta.load(saved, model=tiny_model)).for_classes(OTHERS, ["{}!", "{}?"])
    lines = read_lines(
        run_cli(
            "predict", f"model={tiny_model}", adapter, *paths, *asked, "templates=['{}!', '{}?']"
        )
    )
    assert [line["path"] for line in lines] == paths
    for line, ranking in zip(lines, model.predict(paths), strict=True):
        assert [(p["class"], p["probability"]) for p in line["predictions"]] == [
            (name, pytest.approx(share, abs=1e-6)) for name, share in ranking
        ]
        assert "set" not in line


def test_the_set_of_a_prediction_is_that_of_the_score_and_the_promise(
    run_cli, saved, paths, tiny_model
):
    model = Classifier(*delta.load(saved, model=tiny_model))
    for score in ("lac", "aps"):
        lines = read_lines(
            run_cli("predict", f"model={tiny_model}", saved, *paths, "json=true", f"score={score}")
        )
        sets = model.predict_sets(paths, score=score)
        assert [line["set"] for line in lines] == [[name for name, _ in one] for one in sets]
    code, out, _ = run_cli("predict", f"model={tiny_model}", saved, paths[0])
    assert code == 0 and "set at 80%: " in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["classes=[a, b]", "template={}", "templates=['{}']"], "template and templates are both "),
        (["classes=[a, b]"], "expected images: predict ADAPTER photo.jpg ..., or predict photo.jp"),
        (["no.jpg", "classes=[a, b]", "model=none.yaml"], "1 images cannot be read:\n  no.jpg"),
    ],
)
def test_predictions_that_cannot_be(run_cli, words, message):
    code, out, err = run_cli("predict", *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")


def test_a_delta_alone_is_given_no_images(run_cli, saved):
    code, _, err = run_cli("predict", saved)
    assert code == 2 and err.startswith("error: expected images: ")
