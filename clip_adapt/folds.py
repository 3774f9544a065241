"""Stratified folds of a support set, for choices that have no val split to be made on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

FOLDS = 5


def stratified(y: Tensor) -> Iterator[Tensor]:
    """Yield for each fold a mask (N,) of the images that are held out.

    There are as many folds as the smallest class has images, at most five; none when a class has a
    single image. The i-th image of every class is held out in fold i modulo their number.

    Args:
        y: labels (N,).
    """
    count = min(FOLDS, int(y.bincount()[y.unique()].min())) if len(y) else 0
    rank = torch.zeros_like(y)
    for label in y.unique():
        of_class = (y == label).nonzero()[:, 0]
        rank[of_class] = torch.arange(len(of_class), device=y.device)
    for fold in range(count if count > 1 else 0):
        yield rank % count == fold
