"""What a method may add to a training, and when it is asked."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from clip_adapt.methods.coop import CoOp
from clip_adapt.methods.lora import LoRA

from clip_adapt.adapted.classifier import Classifier
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.method.contract import Method
from clip_adapt.objectives import find_objective
from clip_adapt.training import fitting
from clip_adapt.training.examples import Examples
from clip_adapt.training.fitting import Part
from clip_adapt.training.loop import train
from clip_adapt.training.recipe import Recipe
from clip_adapt.training.step import ClassStep

NAMES = ("cat", "dog", "eel")
RECIPE = Recipe(epochs=1, batch_size=6)


class Watched(Method):
    """A residual on the class weights that notes what it is asked."""

    def __init__(self, backbone, task):
        super().__init__(backbone, task)
        self.shift = torch.nn.Parameter(torch.zeros(len(task.classes), backbone.embed_dim))
        self.events = []

    def weights(self):
        return F.normalize(self.zero_shot_weights + self.shift, dim=1)

    def before_step(self):
        self.events.append(("step", self.shift.grad.clone(), self.shift.detach().clone()))

    def on_epoch_end(self, epoch, epochs):
        assert not torch.is_grad_enabled()
        self.events.append(("epoch", epoch, epochs))


class Penalized(Watched):
    """Asks for everything that a penalty gets."""

    def penalty(self, z, frozen, w):
        self.seen = z, frozen, w
        return 3.0 * (w - self.zero_shot_weights).square().sum() + (z * frozen).sum()


class TunedAndPenalized(LoRA):
    """Keeps image features near those of the frozen tower."""

    def penalty(self, z, frozen, w):
        self.seen = z, frozen, w
        return (z - frozen).square().sum()


class Pictures(torch.utils.data.Dataset):
    """Six pictures as pixels."""

    pixels = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(2))

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.pixels[index], index % 3


@pytest.fixture
def support(tiny_backbone):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(6, 1, tiny_backbone.embed_dim, generator=generator)
    return Examples(F.normalize(z, dim=-1), torch.arange(6) % 3)


def test_a_penalty_is_added_to_a_balanced_and_smoothed_loss(double_backbone):
    method = Penalized(double_backbone, Task(NAMES)).double()
    torch.nn.init.normal_(method.shift, std=0.1, generator=torch.Generator().manual_seed(1))
    z = F.normalize(torch.randn(12, 1, 16, dtype=torch.float64), dim=-1)
    labels = torch.tensor([0] * 8 + [1] * 2 + [2] * 2)
    method.set_criterion(labels, class_balanced=True, label_smoothing=0.1)
    step = ClassStep(method, Examples(z, labels), RECIPE)
    loss, hits = step(*step.batch(torch.arange(12), 0))
    (gradient,) = torch.autograd.grad(loss, method.shift)

    shift = method.shift.detach().clone().requires_grad_()
    w = F.normalize(method.zero_shot_weights + shift, dim=1)
    scores = (double_backbone.logit_scale * z[:, 0] @ w.T).log_softmax(1)
    target = 0.9 * F.one_hot(labels, 3).double() + 0.1 / 3
    weight = torch.tensor([0.5, 2, 2], dtype=torch.float64)  # 12 / (3 n_c)
    entropy = -(target * weight * scores).sum() / weight[labels].sum()
    plain = entropy + 3 * (w - method.zero_shot_weights).square().sum() + z.square().sum()
    (expected,) = torch.autograd.grad(plain, shift)
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    seen, frozen, _ = method.seen
    assert seen is frozen and torch.equal(seen, z[:, 0])
    assert int(hits) == int((scores.argmax(1) == labels).sum())


def test_a_method_that_tunes_the_image_tower_sees_the_frozen_towers_features(tiny_backbone):
    method = TunedAndPenalized(tiny_backbone, Task(NAMES), dropout=0.0).train()
    for parameter in method.trainable():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(6) % 3
    step = ClassStep(method, Examples(Pictures(), labels), RECIPE)
    loss, _ = step(*step.batch(torch.arange(6), 0))
    z, frozen, w = method.seen
    with torch.no_grad():
        assert torch.equal(frozen, tiny_backbone.encode_image(Pictures.pixels))
        assert torch.allclose(z, method.encode_image(Pictures.pixels), atol=1e-6)
        distance = (z - frozen).square().sum()
        expected = F.cross_entropy(method.logits(z, w), labels) + distance
    assert z.requires_grad and not frozen.requires_grad and float(distance) > 1e-3
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_the_frozen_tower_runs_only_for_a_method_that_asks(tiny_backbone, monkeypatch):
    method = LoRA(tiny_backbone, Task(NAMES)).train()
    step = ClassStep(method, Examples(Pictures(), torch.arange(6) % 3), RECIPE)
    monkeypatch.setattr(tiny_backbone, "encode_image", None)
    loss, _ = step(*step.batch(torch.arange(6), 0))
    assert bool(torch.isfinite(loss))


def test_gradients_are_seen_whole_unclipped_and_before_the_step(tiny_backbone, support):
    method = Watched(tiny_backbone, Task(NAMES))
    recipe = Recipe(epochs=2, batch_size=2, accumulate=3, lr=0.1, clip_norm=1e-3, momentum=0.0,
                    weight_decay=0.0, schedule="constant")  # fmt: skip
    train(method, support, recipe)
    kinds = [event[0] for event in method.events]
    assert kinds == ["step", "epoch", "step", "epoch"]
    assert [event[1:] for event in method.events[1::2]] == [(0, 2), (1, 2)]
    _, gradient, before = method.events[0]
    shift = torch.zeros_like(before).requires_grad_()
    w = F.normalize(method.zero_shot_weights + shift, dim=1)
    logits = tiny_backbone.logit_scale * support.inputs[:, 0] @ w.T
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, support.labels), shift)
    assert torch.equal(before, torch.zeros_like(before))
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    assert float(gradient.norm()) > 1e-2
    moved = method.events[2][2] - before
    assert float(moved.norm()) == pytest.approx(1e-3 * 0.1, rel=1e-3)


class Fades(Watched):
    """Makes all weights useless at the end of the second epoch."""

    def on_epoch_end(self, epoch, epochs):
        if epoch == 1:
            self.shift.copy_(-20 * self.zero_shot_weights)


def test_select_val_looks_at_what_the_end_of_an_epoch_left(tiny_backbone, support):
    method = Fades(tiny_backbone, Task(NAMES))
    with torch.no_grad():
        right = Examples(support.inputs, method(support.inputs[:, 0]).argmax(1))
    curve = train(method, right, Recipe(epochs=3, lr=1e-6, select="val"), val=right)
    scores = [row["val_accuracy"] for row in curve]
    assert scores[0] == 1.0 > scores[1]


class NeedsImages(Method):
    """Looks at images without labels."""

    def fit(self, z, y):
        self.given = self.unlabelled


def test_images_without_labels_reach_fit(tiny_backbone, support):
    part, none = Part(support.inputs, support.labels), Part(support.inputs[:0], support.labels[:0])
    rest = torch.randn(4, tiny_backbone.embed_dim)
    for given in (rest, None):
        method = NeedsImages(tiny_backbone, Task(NAMES))
        assert method.unlabelled is None and method.solves
        fitting.fit(method, part, none, RECIPE, unlabelled=given)
        assert method.given is given or torch.equal(method.given, given)


def test_captions_refuse_a_penalty_on_class_weights(tiny_backbone):
    class Held(CoOp):
        def penalty(self, z, frozen, w):
            return w.sum()

    with pytest.raises(InputError, match="method=held adds a penalty on class weights, and"):
        contrastive = find_objective("contrastive").objective
        contrastive.require_fit(None, Held(tiny_backbone, Task(())), "held")


# Options


class Inner(Method):
    """Has an option."""

    def __init__(self, backbone, task, *, width: int = 3, depth: int = 1):
        super().__init__(backbone, task)
        self.width = torch.nn.Parameter(torch.zeros(width))


class Outer(Inner):
    """Has another and passes the rest on."""

    works_on_other_classes = True

    def __init__(self, backbone, task, *, weight: float = 8.0, depth: int = 7, **options):
        super().__init__(backbone, task, depth=depth, **options)


def test_a_method_knows_its_options_however_it_was_made(tiny_backbone):
    task = Task(NAMES)
    assert Method(tiny_backbone, task).options == {}
    assert Inner(tiny_backbone, task, width=5).options == {"width": 5, "depth": 1}
    made = Outer.build(tiny_backbone, task, {"width": 4})
    assert made.options == {"width": 4, "depth": 7, "weight": 8.0}
    assert made.for_task(Task(("owl", "yak"))).options == made.options


def test_a_classifier_made_by_hand_takes_other_classes(tiny_backbone):
    model = Classifier(LoRA(tiny_backbone, Task(NAMES), rank=4)).for_classes(["owl", "yak"])
    assert model.classes == ["owl", "yak"] and model.method.options["rank"] == 4
    assert model.logits(Pictures.pixels).shape == (6, 2)
