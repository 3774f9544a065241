"""The training loop against a loop written out plainly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from clip_adapt.errors import InputError
from clip_adapt.method import Method
from clip_adapt.schedule import Schedule
from clip_adapt.task import Task
from clip_adapt.trainer import Examples, Recipe, accuracy_of, train


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
    assert accuracy_of(method, val) == max(scores) == 1.0 > scores[-1]
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
