"""Runs trained side by side end where each ends alone."""

from __future__ import annotations

import copy
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clip_adapt.backbone import encoding_plan
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.method.contract import Method
from clip_adapt.method.finding import find_method
from clip_adapt.training import side_by_side
from clip_adapt.training.examples import Examples
from clip_adapt.training.fitting import Training
from clip_adapt.training.loop import train
from clip_adapt.training.recipe import Recipe
from clip_adapt.training.side_by_side import find_obstacle, train_together

CLASSES = ("cat", "dog on a tree", "eel")


class Residual(Method):
    """A small adapter with a buffer of its own numbers and a loss of its own."""

    def __init__(self, backbone, task, *, dropout: float = 0.0):
        super().__init__(backbone, task)
        width = backbone.embed_dim
        start = torch.randn(width, width, generator=self.generator).to(backbone.dtype) * 0.1
        self.inner = nn.Parameter(start)
        self.register_buffer("shift", torch.full((width,), 0.01 * task.seed).to(backbone.dtype))
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def logits(self, z, w):
        return super().logits(F.normalize(z + self.drop(z @ self.inner) + self.shift, dim=1), w)

    def loss(self, logits, labels):
        return super().loss(logits, labels) + 0.01 * self.inner.square().sum()


def an_example(backbone, seed, count=13, views=2):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, views, backbone.embed_dim, generator=generator).to(backbone.dtype)
    labels = torch.arange(count) % len(CLASSES)
    z[torch.arange(count), :, labels] += 3
    return Examples(F.normalize(z, dim=-1), labels)


def runs(backbone, cls, seeds_and_rates, **recipe):
    usual = {"epochs": 5, "batch_size": 4, "schedule": "cosine", "warmup": 1, **recipe}
    methods = [cls(backbone, Task(CLASSES, seed=seed)) for seed, _ in seeds_and_rates]
    for method in methods:
        method.to(backbone.dtype)
    supports = [an_example(backbone, seed) for seed, _ in seeds_and_rates]
    recipes = [Recipe(seed=seed, lr=rate, **usual) for seed, rate in seeds_and_rates]
    return methods, supports, recipes


def trainings(methods, supports, recipes):
    return [Training(*each) for each in zip(methods, supports, recipes, strict=True)]


def copies(methods):
    """Methods with the same state on the same backbone."""
    made = []
    for method in methods:
        backbone = method.__dict__.pop("backbone")
        twin = copy.deepcopy(method)
        method.__dict__["backbone"] = twin.__dict__["backbone"] = backbone
        made.append(twin)
    return made


class Penalized(Residual):
    """Adds to the loss what the features, the frozen ones and the class weights say."""

    def weights(self):
        return F.normalize(super().weights() + self.shift, dim=1)

    def penalty(self, z, frozen, w):
        return (w - self.zero_shot_weights).square().sum() + (z @ self.inner).square().mean()


class Halves(Residual):
    """Changes the gradients by what its own run holds."""

    def before_step(self):
        self.inner.grad.mul_(0.5).add_(self.shift)


class Averages(Residual):
    """Changes its state at the end of every epoch."""

    def on_epoch_end(self, epoch, epochs):
        self.shift.add_(self.inner.mean(0) * (epoch + 1) / epochs)


@pytest.mark.parametrize("cls", [Residual, find_method("coop").cls, Penalized, Halves, Averages])
@pytest.mark.parametrize(
    "recipe",
    [
        {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01},
        {"optimizer": "adamw", "schedule_unit": "step", "drop_last": True, "clip_norm": 0.05},
    ],
)
def test_each_run_ends_where_it_ends_alone(double_backbone, cls, recipe):
    methods, supports, recipes = runs(
        double_backbone, cls, [(1, 0.01), (2, 0.01), (2, 0.1)], **recipe
    )
    alone = copies(methods)
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in methods]
    outcomes = train_together(trainings(methods, supports, recipes))
    for index, (method, other) in enumerate(zip(methods, alone, strict=True)):
        expected = train(other, supports[index], recipes[index])
        assert outcomes[index].curve == [pytest.approx(row, rel=1e-5) for row in expected]
        assert outcomes[index].runs == 3 and outcomes[index].seconds > 0
        assert not method.training
        for name, tensor in other.state_dict().items():
            assert torch.allclose(method.state_dict()[name], tensor, rtol=0, atol=1e-10)
        assert any(not torch.equal(v, before[index][k]) for k, v in other.state_dict().items())
    states = [m.state_dict() for m in methods]
    name = next(n for n, _ in methods[0].named_parameters())
    assert not torch.allclose(states[0][name], states[1][name])
    assert not torch.allclose(states[1][name], states[2][name])


def test_a_run_that_diverges_says_so_and_disturbs_no_other(double_backbone):
    rates = [(1, 0.01), (1, 1e200), (3, 0.02)]
    methods, supports, recipes = runs(double_backbone, Residual, rates)
    alone = copies(methods)
    outcomes = train_together(trainings(methods, supports, recipes))
    assert isinstance(outcomes[1], InputError) and "lr=1e+199" in str(outcomes[1])
    for index in (0, 2):
        train(alone[index], supports[index], recipes[index])
        assert torch.allclose(methods[index].inner, alone[index].inner, rtol=0, atol=1e-10)
        assert len(outcomes[index].curve) == 5


def changed(case, backbone):
    """Three runs of which one thing does not fit: (methods, supports, recipes)."""
    methods, supports, recipes = runs(backbone, Residual, [(1, 0.01), (2, 0.01)])
    kinds = {
        "one run": lambda: (methods[:1], supports[:1], recipes[:1]),
        "methods differ": lambda: (
            [methods[0], find_method("coop").cls(backbone, Task(CLASSES))],
            supports,
            recipes,
        ),
        "draws while it learns": lambda: (
            [Residual(backbone, Task(CLASSES), dropout=0.5) for _ in range(2)],
            supports,
            recipes,
        ),
        "number of images differs": lambda: (
            methods,
            [supports[0], an_example(backbone, 1, count=9)],
            recipes,
        ),
        "recipes differ in more than seed, lr": lambda: (
            methods,
            supports,
            [recipes[0], Recipe(epochs=5, batch_size=5)],
        ),
        "text_chunk asks for little memory": lambda: (methods, supports, recipes),
        "nothing is trained": lambda: (
            [find_method("zero_shot").cls(backbone, Task(CLASSES)) for _ in range(2)],
            supports,
            recipes,
        ),
    }
    return kinds[case]()


@pytest.mark.parametrize(
    "case",
    [
        "one run",
        "methods differ",
        "draws while it learns",
        "number of images differs",
        "recipes differ in more than seed, lr",
        "nothing is trained",
        "text_chunk asks for little memory",
    ],
)
def test_what_does_not_fit_is_trained_in_turn(double_backbone, case, monkeypatch):
    if case.startswith("text_chunk"):
        double_backbone.text_chunk = 2
    methods, supports, recipes = changed(case, double_backbone)
    for method in methods:
        method.double()
    assert case in str(find_obstacle(trainings(methods, supports, recipes)))
    monkeypatch.setattr(side_by_side, "TogetherLoop", None)
    alone = copies(methods)
    outcomes = train_together(trainings(methods, supports, recipes))
    for index, other in enumerate(alone):
        assert outcomes[index].curve == train(other, supports[index], recipes[index])
        assert outcomes[index].runs == 1
        for name, tensor in other.state_dict().items():
            assert torch.equal(methods[index].state_dict()[name], tensor)


class Remembers(Residual):
    """What belongs to its run is no buffer."""

    def __init__(self, backbone, task):
        super().__init__(backbone, task)
        self.own = 1.0 + task.seed

    def logits(self, z, w):
        return self.own * super().logits(z, w)


class Draws(Residual):
    """Draws without a module of dropout."""

    def logits(self, z, w):
        return super().logits(F.dropout(z, 0.3, self.training), w)


class DrawsItself(Residual):
    """Draws from the method's own generator, which a trial must not move on."""

    def logits(self, z, w):
        noise = torch.rand(z.shape[-1], generator=self.generator, dtype=z.dtype)
        return super().logits(z + 0.1 * noise, w)


class Branches(Residual):
    """Asks for a value."""

    def logits(self, z, w):
        return super().logits(z, w) * (2 if float(self.inner.detach().sum()) > 0 else 1)


class Counts(Residual):
    """Changes a buffer while it learns."""

    def logits(self, z, w):
        if self.training:
            with torch.no_grad():
                self.shift.mul_(0.9)
        return super().logits(z, w)


class LooksBack(Residual):
    """Changes the gradients by what its own last batch was, which a run axis does not bring."""

    last = None

    def penalty(self, z, frozen, w):
        self.last = z
        return 0.0

    def before_step(self):
        self.inner.grad.add_(self.last.mean())


@pytest.mark.parametrize("cls", [Remembers, Draws, DrawsItself, Branches, Counts, LooksBack])
def test_a_method_that_a_run_axis_does_not_reach_is_trained_in_turn(double_backbone, cls):
    methods, supports, recipes = runs(double_backbone, cls, [(1, 0.01), (2, 0.02), (3, 0.02)])
    alone = [cls(double_backbone, Task(CLASSES, seed=r.seed)).double() for r in recipes]
    side_by_side.count_room(Training(methods[0], supports[0], recipes[0]))
    outcomes = train_together(trainings(methods, supports, recipes))
    for index, other in enumerate(alone):
        assert outcomes[index].runs == 1
        assert outcomes[index].curve == train(other, supports[index], recipes[index])
        for name, tensor in other.state_dict().items():
            assert torch.allclose(methods[index].state_dict()[name], tensor, rtol=0, atol=1e-12)


def test_texts_that_pass_in_parts_do_so_beside_others(double_backbone, monkeypatch):
    methods, supports, recipes = runs(
        double_backbone, find_method("coop").cls, [(1, 0.01), (2, 0.1)]
    )
    alone = copies(methods)
    first, _ = trainings(methods, supports, recipes)
    kept = side_by_side._measure_step(first)
    double_backbone._plans.clear()
    monkeypatch.setattr(encoding_plan, "SHARE_OF_MEMORY", 1e-12)
    assert side_by_side._measure_step(first) == kept
    assert double_backbone.text_chunk == "auto"
    outcomes = train_together(trainings(methods, supports, recipes))
    assert any(len(plan.chunks) == len(CLASSES) for plan in double_backbone._plans.values())
    for index, other in enumerate(alone):
        double_backbone._plans.clear()
        train(other, supports[index], recipes[index])
        assert outcomes[index].runs == 2
        assert torch.allclose(methods[index].ctx, other.ctx, rtol=0, atol=1e-10)


def test_a_large_step_is_not_shared_on_a_cpu(double_backbone, monkeypatch):
    methods, supports, recipes = runs(double_backbone, Residual, [(1, 0.01)])
    (one,) = trainings(methods, supports, recipes)
    before = copies(methods)[0].state_dict()
    assert side_by_side.count_room(one) == side_by_side.MOST
    # At least the batch of features, what is added to them, and the logits.
    least = 8 * (2 * 4 * double_backbone.embed_dim + 4 * len(CLASSES))
    kept = side_by_side._measure_step(one)
    assert least < kept < 20 * least
    monkeypatch.setattr(side_by_side, "SMALL", kept - 1)
    assert side_by_side.count_room(one) == 1
    assert all(torch.equal(t, before[name]) for name, t in methods[0].state_dict().items())


class Slow(Residual):
    """Takes a while at its end, and fails there with one seed."""

    def finish(self):
        time.sleep(0.2)
        if self.task.seed == 2:
            raise ValueError("no end")


def test_the_end_of_a_run_is_its_own(double_backbone):
    methods, supports, recipes = runs(double_backbone, Slow, [(1, 0.01), (2, 0.01), (3, 0.01)])
    one, other, third = train_together(trainings(methods, supports, recipes))
    assert isinstance(other, ValueError) and "no end" in str(other)
    assert one.runs == third.runs == 3
    assert one.seconds >= 0.2 and third.seconds >= 0.2
