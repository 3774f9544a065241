"""How a method is trained: the optimizer and the learning rate over a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from clip_adapt.method.contract import Method
from clip_adapt.training.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a method is trained; the options of configs/train.yaml under their own names."""

    epochs: int
    iterations: int | None = None  # steps in all, in place of epochs
    batch_size: int = 32
    drop_last: bool = False
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.002
    momentum: float = 0.9
    weight_decay: float = 0.0005
    eps: float = 1e-8
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    schedule_unit: Literal["epoch", "step"] = "epoch"
    warmup: int = 0
    warmup_lr: float | None = None
    min_lr: float = 0.0
    accumulate: int = 1
    clip_norm: float | None = None
    class_balanced: bool = False
    label_smoothing: float = 0.0
    select: Literal["last", "val"] = "last"
    seed: int = 1

    @property
    def is_empty(self) -> bool:
        """Whether no step is made."""
        return not (self.epochs if self.iterations is None else self.iterations)

    def length(self, steps_per_epoch: int) -> tuple[int, int]:
        """Return the number of epochs, the last of which may be cut short, and of steps."""
        if self.iterations is None:
            return self.epochs, self.epochs * steps_per_epoch
        return math.ceil(self.iterations / steps_per_epoch), self.iterations


def make_schedule(recipe: Recipe, steps_per_epoch: int) -> Schedule:
    """Return the learning rate at each epoch, or at each step, as the recipe says."""
    epochs, steps = recipe.length(steps_per_epoch)
    return Schedule(
        recipe.schedule,
        recipe.lr,
        epochs if recipe.schedule_unit == "epoch" else steps,
        recipe.warmup,
        recipe.warmup_lr,
        recipe.min_lr,
    )


def make_optimizer(method: Method, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimizer over what the method learns."""
    parameters, lr, decay = method.trainable(), recipe.lr, recipe.weight_decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr, recipe.momentum, weight_decay=decay)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    return kind(parameters, lr, eps=recipe.eps, weight_decay=decay)
