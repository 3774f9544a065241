"""The training loop against a loop written out plainly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.method.contract import Method
from clip_adapt.training.examples import Examples, measure_accuracy
from clip_adapt.training.loop import train
from clip_adapt.training.recipe import Recipe, make_optimizer
from clip_adapt.training.schedule import Schedule


class Shift(Method):
    """A method of one parameter: a residual on the class weights."""

    def __init__(self, backbone, task):
        super().__init__(backbone, task)
        self.shift = torch.nn.Parameter(torch.zeros(len(task.classes), backbone.embed_dim))

    def weights(self):
        return F.normalize(self.zero_shot_weights + self.shift, dim=1)


@pytest.fixture
def problem(tiny_backbone):
    torch.manual_seed(0)
    z = F.normalize(torch.randn(12, 2, tiny_backbone.embed_dim), dim=-1)  # two views an image
    return Shift(tiny_backbone, Task(("cat", "dog", "eel"))), z, torch.arange(12) % 3


def plain_loop(method, z, y, recipe):
    """SGD with momentum and weight decay, by hand, over the loader's own order."""
    shift, velocity = torch.zeros_like(method.shift), torch.zeros_like(method.shift)
    generator = torch.Generator().manual_seed(recipe.seed)
    loader = Examples(z, y).loader(recipe, generator)
    for epoch in range(recipe.epochs):
        lr = Schedule(recipe.schedule, recipe.lr, recipe.epochs, recipe.warmup, recipe.warmup_lr)
        for inputs, labels in loader:
            shift.requires_grad_()
            w = F.normalize(method.zero_shot_weights + shift, dim=1)
            logits = method.backbone.logit_scale * inputs[:, epoch % 2] @ w.T
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels), shift)
            if recipe.clip_norm is not None:
                gradient *= min(1.0, recipe.clip_norm / float(gradient.norm() + 1e-6))
            gradient = gradient + recipe.weight_decay * shift.detach()
            velocity = recipe.momentum * velocity + gradient
            shift = (shift - lr.at(epoch) * velocity).detach()
    return shift


@pytest.mark.parametrize("changes", [{}, {"clip_norm": 0.01}, {"drop_last": True, "batch_size": 5}])
def test_the_loop_equals_sgd_by_hand(problem, changes):
    method, z, y = problem
    recipe = Recipe(**{"epochs": 6, "batch_size": 4, "lr": 0.05, "warmup": 1, "warmup_lr": 1e-5})
    recipe = Recipe(**{**vars(recipe), **changes})
    expected = plain_loop(method, z, y, recipe)
    curve = train(method, Examples(z, y), recipe)
    assert torch.allclose(method.shift, expected, atol=1e-6)
    assert float(expected.abs().max()) > 1e-4
    assert len(curve) == 6 and set(curve[0]) == {"loss", "accuracy", "lr"}


def test_accumulated_batches_equal_one_large_batch(problem):
    method, z, y = problem
    one = Recipe(epochs=3, batch_size=12, lr=0.05)
    train(method, Examples(z, y), one)
    large = method.shift.detach().clone()
    torch.nn.init.zeros_(method.shift)
    train(method, Examples(z, y), Recipe(**{**vars(one), "batch_size": 4, "accumulate": 3}))
    assert torch.allclose(method.shift, large, atol=1e-5)


def plain_step(recipe, p, g, first, second, t):
    """One step of sgd, adam or adamw on floats: (p, first moment, second moment)."""
    if recipe.optimizer == "adamw":
        p = p - recipe.lr * recipe.weight_decay * p
    else:
        g = g + recipe.weight_decay * p
    if recipe.optimizer == "sgd":
        first = g if t == 1 else recipe.momentum * first + g
        return p - recipe.lr * first, first, second
    first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
    root = (second / (1 - 0.999**t)) ** 0.5
    return p - recipe.lr * first / (1 - 0.9**t) / (root + recipe.eps), first, second


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_an_optimizer_makes_the_steps_of_its_formula(tiny_backbone, optimizer):
    method = Shift(tiny_backbone, Task(("cat", "dog"))).double()
    recipe = Recipe(epochs=1, optimizer=optimizer, lr=0.1, momentum=0.7, weight_decay=0.3, eps=0.05)
    with torch.no_grad():
        method.shift.fill_(2.0)
    made = make_optimizer(method, recipe)
    p, first, second = 2.0, 0.0, 0.0
    for t, g in enumerate([0.5, -0.25, 0.125], start=1):
        method.shift.grad = torch.full_like(method.shift, g)
        made.step()
        p, first, second = plain_step(recipe, p, g, first, second, t)
        assert method.shift.detach().flatten().tolist() == pytest.approx([p] * 32, rel=1e-12)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_adam_learns(problem, optimizer):
    method, z, y = problem
    recipe = Recipe(epochs=80, optimizer=optimizer, lr=0.02, schedule="linear")
    curve = train(method, Examples(z, y), recipe)
    assert curve[-1]["loss"] < 0.5 * curve[0]["loss"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [0.1, 0.2, 0.3, 0.3, 0.3, 0.3]),
        ("linear", [0.1, 0.2, 0.3, 0.25, 0.2, 0.15]),
        ("cosine", [0.1, 0.2, 0.3, 0.2799038, 0.225, 0.15]),
    ],
)
def test_schedules_with_a_rising_warm_up(kind, expected):
    schedule = Schedule(kind, lr=0.3, total=6, warmup=2)
    assert [schedule.at(i) for i in range(6)] == pytest.approx(expected, rel=1e-6)


def test_select_val_keeps_the_best_epoch(problem):
    method, z, y = problem
    recipe = Recipe(epochs=3, lr=0.1, schedule="constant")
    train(method, Examples(z, y), recipe)
    with torch.no_grad():  # val labels that an early epoch gets right and the last does not
        val = Examples(z[:, :1], method(z[:, 0]).argmax(1))
    torch.nn.init.zeros_(method.shift)
    longer = Recipe(**{**vars(recipe), "epochs": 40, "select": "val"})
    curve = train(method, Examples(z, y), longer, val=val)
    scores = [row["val_accuracy"] for row in curve]
    kept = method.shift.detach().clone()
    assert measure_accuracy(method, val) == max(scores) == 1.0 > scores[-1]
    torch.nn.init.zeros_(method.shift)
    first = Recipe(**{**vars(recipe), "epochs": 1 + scores.index(1.0)})
    train(method, Examples(z, y), first)
    assert torch.equal(method.shift, kept)


def test_select_val_without_val_is_refused(problem):
    method, z, y = problem
    with pytest.raises(InputError, match="select=val needs validation images"):
        train(method, Examples(z, y), Recipe(epochs=1, select="val"), val=Examples(z[:0], y[:0]))


def test_a_loss_that_is_not_finite_stops_with_a_remedy(problem):
    method, z, y = problem
    with pytest.raises(InputError, match=r"not finite any more in epoch 1 of 3.*lr=0.0002"):
        train(method, Examples(z * torch.nan, y), Recipe(epochs=3))


def test_event_files_hold_the_curve(problem, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    method, z, y = problem
    curve = train(method, Examples(z, y), Recipe(epochs=3), log_dir=tmp_path)
    events = EventAccumulator(str(tmp_path)).Reload()
    losses = [event.value for event in events.Scalars("train/loss")]
    assert losses == pytest.approx([row["loss"] for row in curve])


def test_nothing_to_train_takes_no_step(tiny_backbone):
    method = Method(tiny_backbone, Task(("cat", "dog")))
    assert train(method, Examples(torch.zeros(2, 1, 16), torch.arange(2)), Recipe(epochs=5)) == []


def test_balanced_classes_and_smoothed_labels_are_those_of_the_formula(problem):
    method, z, _ = problem
    y = torch.tensor([0] * 6 + [1] * 4 + [2] * 2)
    method.set_criterion(y, class_balanced=True, label_smoothing=0.1)
    logits = method(z[:, 0]).double()
    target = 0.9 * F.one_hot(y, 3).double() + 0.1 / 3
    weight = torch.tensor([12 / (3 * 6), 12 / (3 * 4), 12 / (3 * 2)], dtype=torch.float64)
    plain = -(target * weight * logits.log_softmax(1)).sum() / weight[y].sum()
    assert torch.allclose(method.loss(logits, y), plain)
    method.set_criterion(y, class_balanced=False, label_smoothing=0.0)
    assert torch.equal(method.loss(logits, y), F.cross_entropy(logits, y))


def test_training_uses_the_balance_and_the_smoothing(problem):
    method, z, _ = problem
    y = torch.tensor([0] * 10 + [1, 2])
    recipe = {"epochs": 1, "batch_size": 12, "lr": 1e-6}
    for changes in ({"class_balanced": True}, {"label_smoothing": 0.2}):
        curve = train(method, Examples(z, y), Recipe(**recipe, **changes))
        with torch.no_grad():
            assert curve[0]["loss"] == pytest.approx(float(method.loss(method(z[:, 0]), y)), 1e-4)
            assert curve[0]["loss"] != pytest.approx(
                float(F.cross_entropy(method(z[:, 0]), y)), 1e-4
            )


def test_a_loss_of_its_own_cannot_be_balanced(tiny_backbone):
    class Hinge(Shift):
        def loss(self, logits, labels):
            return F.multi_margin_loss(logits, labels)

    method = Hinge(tiny_backbone, Task(("cat", "dog")))
    with pytest.raises(InputError, match="class_balanced and label_smoothing cannot change"):
        method.set_criterion(torch.tensor([0, 1]), class_balanced=True, label_smoothing=0.0)


@pytest.mark.parametrize(("iterations", "epochs"), [(7, 3), (3, 1), (1, 1)])
def test_iterations_end_in_the_middle_of_an_epoch(problem, iterations, epochs):
    method, z, y = problem
    recipe = Recipe(
        epochs=50, iterations=iterations, batch_size=4, schedule_unit="step", lr=0.1, min_lr=0.01
    )
    curve = train(method, Examples(z, y), recipe)
    assert len(curve) == epochs
    last = Schedule("cosine", 0.1, iterations, min_lr=0.01).at(iterations - 1)
    assert curve[-1]["lr"] == pytest.approx(last)
    assert train(method, Examples(z, y), Recipe(epochs=50, iterations=0)) == []
