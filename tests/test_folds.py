"""Stratified folds."""

from __future__ import annotations

import torch

from clip_adapt.folds import stratified


def test_folds_hold_every_class_and_cover_every_image_once():
    y = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2])
    masks = list(stratified(y))
    assert len(masks) == 3
    assert torch.stack(masks).sum(0).tolist() == [1] * len(y)
    assert all(set(y[held].tolist()) == {0, 1, 2} for held in masks)


def test_there_are_five_folds_at_most_and_none_with_one_image_a_class():
    assert len(list(stratified(torch.arange(40) % 4))) == 5
    assert list(stratified(torch.arange(4))) == []
    assert list(stratified(torch.tensor([], dtype=torch.long))) == []
