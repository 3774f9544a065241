"""For each image the interval of alpha in which it is right: a whole grid of alpha for one pass.

The logits ``base + alpha * extra`` of a class y and of a rival c cross at one alpha only, so y
beats c on a half-line, and beats all of them on the intersection of half-lines: one interval an
image. How many images are right at each alpha of a grid is then a sum of interval ends, in place
of an argmax over (N, C) for every alpha.
"""

from __future__ import annotations

import torch
from torch import Tensor

# An image whose interval ends this near (relatively) to a grid point is looked at plainly there:
# rounding and the order of tied classes decide, and both must be those of argmax.
NEAR = 1e-6


def count_hits(base: Tensor, extra: Tensor, labels: Tensor, grid: Tensor) -> Tensor:
    """Count, at every alpha of a grid, the images whose ``argmax(base + alpha * extra)`` is right.

    Args:
        base: logits (N, C) that do not depend on alpha.
        extra: what alpha multiplies (..., N, C); every leading index is a search of its own.
        labels: the right classes (N,).
        grid: ascending values of alpha (A,), none negative, of the dtype of ``base``.

    Returns:
        counts (..., A), exactly those of the plain search; a tie goes to the first class.
    """
    leading, searches = extra.shape[:-2], extra.reshape(-1, *base.shape)  # (M, N, C)
    low, high, possible = _find_interval(base, searches, labels)  # (M, N)
    plain = _find_near(low, grid) | _find_near(high, grid)
    first = torch.searchsorted(grid, low, right=True)
    end = torch.searchsorted(grid, high)
    counted = possible & (first < end) & ~plain
    changes = _count(first, counted, grid) - _count(end, counted, grid)
    counts = changes.cumsum(1)[:, :-1] + _count_plainly(base, searches, labels, grid, plain)
    return counts.reshape(*leading, len(grid))


def _find_interval(base: Tensor, extra: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    own = labels.unsqueeze(1)
    lead = base.gather(1, own) - base  # (N, C), of the right class over each
    slope = extra.gather(2, own.expand(len(extra), -1, -1)) - extra  # what alpha adds to the lead
    crossing = -lead / slope
    low = crossing.masked_fill(slope <= 0, -torch.inf).amax(2)
    high = crossing.masked_fill_(slope >= 0, torch.inf).amin(2)
    earlier = torch.arange(base.shape[1], device=base.device) < own
    behind = (lead < 0) | ((lead == 0) & earlier)  # at an alpha of 0
    lost = (slope == 0).logical_and_(behind)
    return low, high, ~lost.any(2)


def _find_near(ends: Tensor, grid: Tensor) -> Tensor:
    above = torch.searchsorted(grid, ends)
    neighbours = grid[torch.stack([above - 1, above]).clamp(0, len(grid) - 1)]  # (2, M, N)
    return ((ends - neighbours).abs() <= NEAR * neighbours).any(0)


def _count(indices: Tensor, counted: Tensor, grid: Tensor) -> Tensor:
    # How often each index (0 to A) of the counted images stands in each row (M, A + 1).
    totals = indices.new_zeros(len(indices), len(grid) + 1)
    return totals.scatter_add_(1, indices, counted.long())


def _count_plainly(
    base: Tensor, extra: Tensor, labels: Tensor, grid: Tensor, rows: Tensor
) -> Tensor:
    search, image = rows.nonzero(as_tuple=True)  # (P,)
    zero, added, label = base[image], extra[search, image], labels[image]
    right = torch.stack([(zero + alpha * added).argmax(1) == label for alpha in grid], 1)  # (P, A)
    counts = label.new_zeros(len(extra), len(grid))
    return counts.index_add_(0, search, right.long())
