"""The guard: its weight against a plain search, and where it is stored and used."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import clip_adapt
from clip_adapt.adapted import guard
from clip_adapt.data.task import Task
from clip_adapt.method.contract import Method
from clip_adapt.training.fitting import Part, guard_weight
from clip_adapt.training.recipe import Recipe

NAMES = ("cat", "dog", "eel")


def test_the_weight_is_the_best_of_a_plain_search():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        ours, base = torch.randn(2, 12, 3, generator=generator, dtype=torch.float64)
        y = torch.randint(3, (12,), generator=generator)
        chosen = guard.choose(ours, base, y)
        scores = []
        for weight in [i / 20 for i in range(21)]:
            logits = (1 - weight) * ours + weight * base
            right = int((logits.argmax(1) == y).sum())
            scores.append((right, -float(F.cross_entropy(logits, y)), weight))
        assert chosen == max(scores)[2]


def test_it_never_ends_below_zero_shot_on_the_labels_that_chose_it():
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(50, 3, generator=generator)
    y = base.argmax(1)  # zero-shot is always right, the method is noise
    ours = 5 * torch.randn(50, 3, generator=generator)
    weight = guard.choose(ours, base, y)
    assert (guard.mix(ours, base, weight).argmax(1) == y).all()
    assert guard.choose(base, ours, y) == 0.0
    assert guard.choose(ours, base, y[:0]) == 0.5


class Forgets(Method):
    """A method that is wrong on purpose: its class weights are shifted by one class."""

    def __init__(self, backbone, task):
        super().__init__(backbone, task)
        self.register_buffer("fitted", torch.zeros(1))
        self.seen = []

    def fit(self, z, y):
        self.seen = [len(y)]
        self.fitted.fill_(1)

    def weights(self):
        return self.zero_shot_weights.roll(1, 0)


@pytest.fixture
def easy(tiny_backbone):
    """Images that zero-shot gets right: the class weights themselves."""
    task = Task(NAMES)
    w = Method(tiny_backbone, task).zero_shot_weights
    y = torch.arange(9) % 3
    return task, Part(w[y].unsqueeze(1), y)


@pytest.mark.parametrize("with_val", [True, False])
def test_a_method_that_forgets_is_given_up_for_zero_shot(tiny_backbone, easy, with_val, caplog):
    caplog.set_level("INFO")
    task, part = easy
    empty = Part(part.z[:0], part.labels[:0])
    made = []

    def make():
        made.append(Forgets(tiny_backbone, task))
        return made[-1]

    recipe = Recipe(epochs=0)
    weight = guard_weight(make(), make, part, part, part if with_val else empty, recipe)
    logits = guard.mix(
        made[0](part.z[:, 0]), made[0].zero_shot_logits(part.z[:, 0]), weight
    ).argmax(1)
    assert torch.equal(logits, part.labels)
    assert ("chosen on val" if with_val else "chosen by folds") in caplog.text
    # Each fold's method sees the other folds only.
    assert [m.seen for m in made[1:]] == ([] if with_val else [[6], [6], [6]])


def test_one_image_a_class_leaves_nothing_to_choose_by(tiny_backbone, easy, caplog):
    task, part = easy
    one = Part(part.z[:3], part.labels[:3])
    empty = Part(part.z[:0], part.labels[:0])
    method = Forgets(tiny_backbone, task)
    assert guard_weight(method, lambda: method, one, one, empty, Recipe(epochs=0)) == 0.5
    assert "nothing to choose by" in caplog.text


def test_held_out_images_are_judged_in_their_centre_view(tiny_backbone, easy):
    task, centre = easy
    # In the views that are trained on every image looks like the next class.
    views = Part(centre.z.roll(1, 0), centre.labels)
    empty = Part(centre.z[:0], centre.labels[:0])

    def make():
        return Forgets(tiny_backbone, task)

    recipe, method = Recipe(epochs=0), make()
    weight = guard_weight(method, make, views, centre, empty, recipe)
    z = centre.z[:, 0]
    mixed = guard.mix(method(z), method.zero_shot_logits(z), weight)
    assert torch.equal(mixed.argmax(1), centre.labels)
    assert guard_weight(method, make, centre, views, empty, recipe) < weight


@pytest.mark.parametrize("name", ["taskres", "lora"])
def test_a_run_without_val_judges_centre_views(train_tiny, make_folder, monkeypatch, name):
    folder, seen = make_folder("animals", splits=("train", "test")), []

    def watch(method, make, support, centre, val, recipe):
        seen.append(centre)
        return 0.5

    monkeypatch.setattr("clip_adapt.training.fitting.guard_weight", watch)
    views = [] if name == "lora" else ["views=2"]
    words = [f"method={name}", "augment=coop", "guard=true", *views]
    code, _, error = train_tiny(folder, *words)
    assert code == 0, error
    (centre,) = seen
    assert centre.z.shape[:2] == (6, 1)
    if name == "lora":
        assert centre.pixels.augment == "none" and len(centre.pixels) == 6
        with torch.no_grad():
            pixels = torch.stack([centre.pixels[i][0] for i in range(6)])
            expected = centre.pixels.backbone.encode_image(pixels)
        assert torch.allclose(centre.z[:, 0], expected, atol=1e-5)


def test_the_weight_is_stored_and_used(train_tiny, animals, tiny_model):
    words = ["method=linear_probe", "guard=true", "shots=4"]
    code, *_ = train_tiny(animals, *words)
    assert code == 0
    model = clip_adapt.load("out", model=tiny_model)
    assert 0 <= model.guard <= 1 and model.header.guard == model.guard
    model.guard = 0.25
    z = torch.randn(2, model.backbone.embed_dim)
    with torch.no_grad():
        expected = 0.75 * model.method(z) + 0.25 * model.method.zero_shot_logits(z)
    assert torch.allclose(model.probabilities_of_features(z), expected.softmax(1), atol=1e-6)


def test_the_frozen_tower_speaks_for_zero_shot_when_the_method_tunes_it(tiny_backbone):
    from clip_adapt.methods.lora import LoRA

    method = LoRA(tiny_backbone, Task(NAMES))
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.3)
    model = clip_adapt.Classifier(method)
    model.guard = 1.0
    pixels = torch.randn(2, 3, 32, 32)
    base = clip_adapt.zero_shot(NAMES, model=tiny_backbone).probabilities(pixels)
    assert torch.allclose(model.probabilities(pixels), base, atol=1e-6)
    model.guard = 0.0
    assert not torch.allclose(model.probabilities(pixels), base, atol=1e-3)
