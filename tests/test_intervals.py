"""The search by intervals against the plain one, point by point, ties included."""

from __future__ import annotations

import pytest
import torch

from clip_adapt.method import alpha_search

GRID = torch.tensor([0.1 + i * 2.9 / 20 for i in range(20)], dtype=torch.float64)


def plain(base, extra, labels, grid):
    """How often argmax, written as a loop, gives the label at each alpha."""
    counts = []
    for alpha in grid.tolist():
        right = 0
        for row, added, label in zip(base, extra, labels.tolist(), strict=True):
            values = (row + alpha * added).tolist()
            right += values.index(max(values)) == label
        counts.append(right)
    return counts


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [1, 2, 7])
def test_every_point_of_the_grid_equals_the_plain_search(seed, classes):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(60, classes, generator=generator, dtype=torch.float64)
    extra = torch.randn(60, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (60,), generator=generator)
    counts = alpha_search.count_hits(base, extra, labels, GRID).tolist()
    assert counts == plain(base, extra, labels, GRID)
    assert classes == 1 or len(set(counts)) > 1


@pytest.mark.parametrize("seed", range(20))
def test_ties_go_to_the_first_class_as_in_argmax(seed):
    # Small whole numbers and a dyadic grid: many crossings fall on the grid exactly.
    generator = torch.Generator().manual_seed(seed)
    base = torch.randint(-2, 3, (200, 4), generator=generator).double()
    extra = torch.randint(-2, 3, (200, 4), generator=generator).double()
    labels = torch.randint(4, (200,), generator=generator)
    grid = torch.arange(9, dtype=torch.float64) / 4
    expected = plain(base, extra, labels, grid)
    assert alpha_search.count_hits(base, extra, labels, grid).tolist() == expected


@pytest.mark.parametrize("seed", range(20))
def test_crossings_that_round_to_either_side_of_a_grid_point(seed):
    # The classes cross at a point of a grid whose values are no dyadic numbers.
    generator = torch.Generator().manual_seed(seed)
    extra = torch.randn(100, 3, generator=generator, dtype=torch.float64)
    at = GRID[torch.randint(20, (100, 1), generator=generator)]
    base = 5.0 - at * extra
    labels = torch.randint(3, (100,), generator=generator)
    expected = plain(base, extra, labels, GRID)
    assert alpha_search.count_hits(base, extra, labels, GRID).tolist() == expected


def test_single_points_and_a_grid_that_starts_at_zero():
    base = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    extra = torch.tensor([[0.0, 2.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 0])
    for grid in ([0.0], [0.5], [1.0], [0.0, 0.25, 0.5, 0.75]):
        points = torch.tensor(grid, dtype=torch.float64)
        counts = alpha_search.count_hits(base, extra, labels, points).tolist()
        assert counts == plain(base, extra, labels, points)
    assert alpha_search.count_hits(base, extra, labels, torch.tensor([0.0]).double()).tolist() == [
        2
    ]


def test_many_searches_at_once_are_each_its_own():
    generator = torch.Generator().manual_seed(0)
    base = torch.randint(-2, 3, (40, 4), generator=generator).double()
    extra = torch.randint(-2, 3, (2, 3, 40, 4), generator=generator).double()
    labels = torch.randint(4, (40,), generator=generator)
    grid = torch.arange(9, dtype=torch.float64) / 4
    counts = alpha_search.count_hits(base, extra, labels, grid)
    assert counts.shape == (2, 3, 9)
    for i, j in ((0, 0), (0, 2), (1, 1)):
        assert counts[i, j].tolist() == plain(base, extra[i, j], labels, grid)
