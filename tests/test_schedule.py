"""The learning rate at every unit of a run, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from clip_adapt.training.recipe import Recipe, make_schedule
from clip_adapt.training.schedule import Schedule


def rates(schedule, count):
    return [schedule.at(done) for done in range(count)]


@pytest.mark.parametrize("warmup_lr", [1e-5, 0.0])
@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_a_constant_warm_up_lasts_as_long_as_it_says(kind, warmup_lr):
    schedule = Schedule(kind, lr=0.4, total=4, warmup=2, warmup_lr=warmup_lr)
    assert rates(schedule, 3) == [warmup_lr, warmup_lr, 0.4]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [0.5, 0.5, 0.5, 0.5]),
        ("linear", [0.5, 0.4, 0.3, 0.2]),
        ("cosine", [0.5, 0.3 + 0.2 * math.sqrt(0.5), 0.3, 0.3 - 0.2 * math.sqrt(0.5)]),
    ],
)
def test_the_smallest_rate_is_where_the_curve_ends(kind, expected):
    schedule = Schedule(kind, lr=0.5, total=4, min_lr=0.1)
    assert rates(schedule, 4) == pytest.approx(expected, rel=1e-12)
    end = 0.5 if kind == "constant" else 0.1
    assert rates(schedule, 7)[4:] == pytest.approx([end] * 3, rel=1e-12)  # and there it stays


def test_a_schedule_of_nothing_is_at_its_top():
    assert Schedule("cosine", lr=0.5, total=0).at(0) == 0.5


def test_the_curve_counts_its_whole_length_from_the_end_of_the_warm_up():
    schedule = Schedule("linear", lr=0.4, total=4, warmup=1, warmup_lr=0.1)
    assert rates(schedule, 4) == pytest.approx([0.1, 0.4, 0.3, 0.2])


@pytest.mark.parametrize(
    ("changes", "total"),
    [
        ({}, 6),
        ({"schedule_unit": "step"}, 60),
        ({"iterations": 25}, 3),
        ({"iterations": 25, "schedule_unit": "step"}, 25),
    ],
)
def test_a_recipe_gives_its_schedule(changes, total):
    own = {"lr": 0.4, "schedule": "linear", "warmup": 2, "warmup_lr": 0.01, "min_lr": 0.1}
    schedule = make_schedule(Recipe(epochs=6, **own, **changes), steps_per_epoch=10)
    assert schedule == Schedule("linear", 0.4, total, 2, 0.01, 0.1)
