"""Stratified folds of a support set, for choices that have no val split to be made on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

FOLDS = 5


def hold_out(y: Tensor) -> Iterator[Tensor]:
    """Yield for each fold a mask (N,) of the images that are held out.

    There are as many folds as the largest class has images, at most five; none when no class has
    two. The i-th image of every class is held out in fold i modulo their number; an image that is
    the only one of its class never is, because without it nothing could know the class.

    Args:
        y: labels (N,).
    """
    if not len(y):
        return
    counts = y.bincount()
    rank = torch.zeros_like(y)
    for label in y.unique():
        of_class = (y == label).nonzero()[:, 0]
        rank[of_class] = torch.arange(len(of_class), device=y.device)
    count = min(FOLDS, int(counts.max()))
    for fold in range(count if count > 1 else 0):
        yield (rank % count == fold) & (counts[y] > 1)


def split_folds(z: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield (z, y) to fit on and (z, y) to choose by, for every stratified fold.

    Args:
        z: features (N, D).
        y: labels (N,).
    """
    for held in hold_out(y):
        yield z[~held], y[~held], z[held], y[held]
