"""The samplers: proportions, groups, everything; `coop` itself is tested in test_data.py."""

import random
from collections import Counter

import pytest

from clip_adapt.config.cards import DataCard
from clip_adapt.data import sampling
from clip_adapt.data.dataset import Dataset
from clip_adapt.data.items import Item
from clip_adapt.runs.configuration import compose


def pool(sizes, group=None):
    """Return items of classes of these sizes; ``group`` gives their group by label and number."""
    return [
        Item(f"{label}/{n}", label, group and group(label, n))
        for label, size in enumerate(sizes)
        for n in range(size)
    ]


def dataset(train, val=()):
    names = [f"class {i}" for i in range(1 + max(item.label for item in train))]
    return Dataset(DataCard("made", "folder"), names, train, list(val), [])


def per_class(items):
    counts = Counter(item.label for item in items)
    return [counts[label] for label in sorted(counts)]


@pytest.mark.parametrize(
    ("sizes", "shots", "expected"),
    [
        ([600, 300, 100], 10, [18, 9, 3]),
        ([50, 50], 4, [4, 4]),
        ([97, 2, 1], 2, [4, 1, 1]),
        ([7, 5, 3], 2, [3, 2, 1]),
        ([5, 3], 100, [5, 3]),
        ([1000, 1, 1, 1], 1, [1, 1, 1, 1]),
    ],
)
def test_natural_keeps_the_proportions(sizes, shots, expected):
    drawn = sampling.draw_natural(pool(sizes), shots, random.Random(1))
    assert per_class(drawn) == expected
    assert len({item.path for item in drawn}) == len(drawn)


def test_natural_draws_by_seed_and_for_val_too():
    data = dataset(pool([60, 30]), pool([20, 10]))
    one, same, other = (data.few_shot(8, seed, "natural") for seed in (1, 1, 2))
    assert one == same
    assert one.train != other.train
    assert per_class(one.train) == [11, 5]
    assert per_class(one.val) == [5, 3]
    assert one.notes == ["sampling=natural: 16 training images, 5 to 11 a class"]


def test_what_is_said_of_a_draw_is_what_was_drawn():
    data = dataset(pool([12, 9]))
    assert data.few_shot(16, sampling="all").count_largest() == 12
    assert data.few_shot(16).count_largest() == 16
    asked = [compose({"dataset": "eyes", "sampling": way}) for way in sampling.SAMPLERS]
    said = {c.options.sampling: c.objective.describe_draw(c.options) for c in asked}
    assert said == {
        "coop": "16 shots",
        "natural": "16 shots in natural shares",
        "all": "all images",
    }


def test_all_takes_everything_in_order():
    data = dataset(pool([9, 4]), pool([3, 2]))
    drawn = data.few_shot(1, 5, "all")
    assert (drawn.train, drawn.val) == (data.train, data.val)
    assert drawn.notes == ["sampling=all: 13 training images, 4 to 9 a class"]


@pytest.mark.parametrize("name", ["coop", "natural"])
@pytest.mark.parametrize("seed", range(5))
def test_a_group_gives_a_second_image_only_after_all_gave_one(name, seed):
    # Five patients of a class: one with 40 images, four with 2.
    items = pool([48, 48], lambda label, n: f"{label}-{max(0, n - 39) // 2}")
    drawn = dataset(items).few_shot(5, seed, name).train
    for label in range(2):
        groups = [item.group for item in drawn if item.label == label]
        assert sorted(groups) == sorted({item.group for item in items if item.label == label})
    more = dataset(items).few_shot(9, seed, name).train
    counts = Counter(item.group for item in more)
    assert sorted(counts.values()) == [1, 1, 2, 2, 2, 2, 2, 2, 2, 2] or max(counts.values()) <= 2


def test_groups_of_one_image_are_drawn_at_random():
    items = pool([10], lambda label, n: f"{n}")
    draws = {
        tuple(i.path for i in sampling.draw_coop(items, 3, random.Random(s))) for s in range(30)
    }
    assert len(draws) > 20


def test_images_without_a_group_stand_for_themselves():
    items = pool([12], lambda label, n: "one" if n < 8 else None)
    for seed in range(10):
        drawn = sampling.draw_coop(items, 5, random.Random(seed))
        assert Counter(item.group for item in drawn) == {None: 4, "one": 1}
