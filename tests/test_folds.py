"""Stratified folds."""

from __future__ import annotations

import torch

from clip_adapt.method.folds import hold_out


def test_folds_cover_every_image_once_but_the_only_one_of_its_class():
    y = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 3])
    masks = list(hold_out(y))
    assert len(masks) == 5
    assert torch.stack(masks).sum(0).tolist() == [1] * (len(y) - 1) + [0]
    assert all(set(y[~held].tolist()) == {0, 1, 2, 3} for held in masks)


def test_there_are_five_folds_at_most_and_none_with_one_image_a_class():
    assert len(list(hold_out(torch.arange(40) % 4))) == 5
    assert list(hold_out(torch.arange(4))) == []
    assert list(hold_out(torch.tensor([], dtype=torch.long))) == []
