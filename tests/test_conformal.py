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
