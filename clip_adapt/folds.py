"""Folds of the support set, to choose a value by when there are no validation images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

FOLDS = 5


def folds(z: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield (z, y) to fit on and (z, y) to choose by, in stratified folds.

    There are as many folds as the smallest class has images, at most five; none when a class has a
    single image.
    """
    count = min(FOLDS, int(y.bincount()[y.unique()].min()))
    rank = torch.zeros_like(y)
    for label in y.unique():
        of_class = (y == label).nonzero()[:, 0]
        rank[of_class] = torch.arange(len(of_class), device=y.device)
    for fold in range(count if count > 1 else 0):
        held = rank % count == fold
        yield z[~held], y[~held], z[held], y[held]
