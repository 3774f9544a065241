"""The learning curve of a training, and what is said when it leaves the numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from clip_adapt.method.contract import Method
from clip_adapt.training.recipe import Recipe

Curve = list[dict[str, float]]


def explain_not_finite(method: Method, recipe: Recipe, epoch: int) -> str:
    """Return what to tell a user whose loss is not finite any more."""
    half = "" if method.backbone.dtype == torch.float32 else ", or precision=fp32"
    clip = "" if recipe.clip_norm is not None else ", or clip_norm=1"
    of = f" of {recipe.epochs}" if recipe.iterations is None else ""
    return (
        f"the loss is not finite any more in epoch {epoch + 1}{of}. "
        f"Use a smaller learning rate (lr={recipe.lr / 10:g}; it is {recipe.lr:g})"
        f"{clip}{half}."
    )


def describe_curve(rows: Curve) -> dict[str, list[float]]:
    """Return a learning curve by name, an entry per epoch, in five digits."""
    return {name: [float(f"{row[name]:.5g}") for row in rows] for name in (rows or [{}])[0]}


def read_sums(sums: Tensor) -> list[float]:
    """Return numbers from the device: this waits for all its work, so it is done once an epoch."""
    return sums.tolist()
