"""The learning rate over a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a function of the number of finished units (epochs or steps).

    The cosine runs over ``total`` units counted from the end of the warm-up, as in the CoOp
    authors' code (their scheduler starts a CosineAnnealingLR of all epochs after the warm-up), so
    it ends a little above ``min_lr`` when there is one.

    Attributes:
        kind: shape behind the warm-up.
        lr: learning rate at its top.
        total: length of the run.
        warmup: length of the warm-up.
        warmup_lr: constant rate of the warm-up; None rises linearly from lr / (warmup + 1).
        min_lr: where cosine and linear end.
    """

    kind: Literal["cosine", "linear", "constant"]
    lr: float
    total: int
    warmup: int = 0
    warmup_lr: float | None = None
    min_lr: float = 0.0

    def at(self, done: int) -> float:
        """Return the learning rate of the unit that follows ``done`` finished ones."""
        if done < self.warmup:
            rising = self.lr * (done + 1) / (self.warmup + 1)
            return rising if self.warmup_lr is None else self.warmup_lr
        progress = min(1.0, (done - self.warmup) / max(1, self.total))
        share = {
            "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
            "linear": 1 - progress,
            "constant": 1.0,
        }[self.kind]
        return self.min_lr + (self.lr - self.min_lr) * share
