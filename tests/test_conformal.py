"""The rank of a conformal threshold on paper and in binary, and sets at the threshold itself."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from clip_adapt.adapted import conformal
from clip_adapt.errors import InputError

ALPHAS = [f"{thousandths / 1000:g}" for thousandths in range(5, 501, 5)]  # as they are typed


def rank_on_paper(n, alpha):
    """Return ceil((n + 1)(1 - alpha)) of the decimal number that was typed."""
    return math.ceil((n + 1) * (1 - Fraction(alpha)))


def test_the_rank_is_that_of_the_typed_number():
    in_binary = []
    for n, alpha in itertools.product(range(1, 200), ALPHAS):
        if (rank := rank_on_paper(n, alpha)) <= n:
            assert conformal.find_threshold(np.arange(1.0, n + 1), float(alpha)) == rank, (n, alpha)
            in_binary.append(math.ceil((n + 1) * (1 - float(alpha))) - rank)
    assert in_binary.count(1) > 10  # the cases in which the formula as it stands is wrong


def test_a_promise_of_nothing_takes_the_smallest_score():
    assert conformal.find_threshold(np.array([3.0, 1.0, 2.0]), 1.0) == 1


def test_the_least_number_of_images_is_enough_and_one_fewer_is_not():
    for alpha in ALPHAS:
        least = math.ceil((1 - Fraction(alpha)) / Fraction(alpha))
        conformal.require_enough(least, float(alpha))
        for n in (0, least // 2, least - 1):
            with pytest.raises(InputError) as caught:
                conformal.require_enough(n, float(alpha))
            assert f"needs at least {least} calibration images, there are {n}." in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("score", ["lac", "aps"])
def test_a_score_at_the_threshold_is_inside(score, dtype):
    for seed in range(10):
        stream = np.random.default_rng(seed)
        p = stream.dirichlet(np.ones(12), size=49).astype(dtype)
        labels = stream.integers(12, size=49)
        thresholds = conformal.fit_thresholds(p, labels, 0.3)
        inside = conformal.choose_sets(p, thresholds, score)[np.arange(49), labels]
        assert inside.sum() == 35  # ceil(50 * 0.7) of distinct scores


def test_equally_probable_classes_enter_together():
    p = np.array([[0.4, 0.1, 0.4, 0.1], [0.25] * 4])
    assert conformal.aps(p).tolist() == [[0, 0.8, 0, 0.8], [0, 0, 0, 0]]
    inside = conformal.choose_sets(p, {"aps": 0.0}, "aps")
    assert inside.tolist() == [[True, False, True, False], [True] * 4]


def test_equal_weights_give_the_plain_threshold():
    scores = np.random.default_rng(0).random(37)
    labels = np.arange(37) % 3
    for alpha in (0.05, 0.1, 0.3):
        plain = conformal.find_threshold(scores, alpha)
        assert conformal.find_weighted(scores, labels, np.full(3, 2.0), alpha) == [plain] * 3


def test_weights_by_hand():
    # Ten of the usual class and two of the rare one, which should be two of three and one of three.
    assert conformal.weigh_classes([20, 10], [10, 2]) == [pytest.approx(0.8), pytest.approx(2.0)]
    assert conformal.weigh_classes([20, 10, 5], [10, 2, 0])[2] == 0
    assert conformal.weigh_classes([20, 10], [4, 2]) == []
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.9, 0.95])
    labels = np.array([0, 0, 0, 0, 1, 1])
    # Of all weight 8, and that of the new image: 0.7 * (8 + 1) = 6.3 and 0.7 * (8 + 2) = 7.
    found = conformal.find_weighted(scores, labels, np.array([1.0, 2.0, 0.0]), 0.3)
    assert found == [0.95, 0.95, conformal.EVERYTHING]
    found = conformal.find_weighted(scores, labels, np.array([1.0, 2.0, 0.0]), 0.35)
    assert found == [0.9, 0.95, conformal.EVERYTHING]  # 5.85 and 6.5
    # No six images hold 0.9 * (8 + 2): a rare class stands in every set.
    assert conformal.find_weighted(scores, labels, np.array([1.0, 2.0]), 0.1)[1] == 1 + 1e-6


@pytest.mark.parametrize("score", ["lac", "aps"])
def test_the_promise_holds_for_new_images_where_the_draw_took_the_rare_ones(score):
    """The share of sets that hold the truth, with weights and without, over 300 calibrations."""
    shares, left = [0.8, 0.2], [190, 10]  # 240 and 60 images, of which 50 each were drawn
    held = {"weighted": [], "plain": []}
    for seed in range(300):
        stream = np.random.default_rng(seed)

        def draw(labels, stream=stream):
            x = stream.normal(np.where(labels, 0.4, -1.0), 1.0)  # the rare class is the hard one
            p = 1 / (1 + np.exp(-1.4 * x))
            return np.stack([1 - p, p], 1)

        y = np.repeat([0, 1], left)
        new = (stream.random(200) < shares[1]).astype(int)
        p, of_new = draw(y), draw(new)
        weights = conformal.weigh_classes([240, 60], left)
        for name, w in (("weighted", weights), ("plain", [])):
            limits = conformal.fit_thresholds(p, y, 0.1, w)
            inside = conformal.choose_sets(of_new, limits, score)
            held[name].append(inside[np.arange(200), new].mean())
    assert np.mean(held["plain"]) < 0.88
    assert np.mean(held["weighted"]) >= 0.895
