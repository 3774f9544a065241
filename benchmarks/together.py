"""Eight runs of one method, seeds and learning rates, one after the other and side by side.

CoOp with 10 classes and 16 shots on cached features, and the feature adapter. Plain is ``train``
run by run: the packed text tower is in both ways. Seconds are those of all eight runs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from benchmarks import common
from benchmarks.common import Row
from benchmarks.published import class_names, towers
from clip_adapt.data.task import Task
from clip_adapt.method.finding import find_method, list_methods
from clip_adapt.training.examples import Examples
from clip_adapt.training.fitting import Trained, Training
from clip_adapt.training.recipe import Recipe
from clip_adapt.training.side_by_side import train_together

EPOCHS = {"coop": 5, "adapter": 20}


def measure(args: Any) -> list[Row]:
    """Return the table's rows."""
    _, backbone = towers(args.architecture, args.device)
    return [_compare(args, backbone, name) for name in EPOCHS if name in list_methods()]


def _compare(args: Any, backbone: Any, name: str) -> Row:
    count, shots, runs = (2, 2, 2) if args.tiny else (10, 16, 8)
    classes = tuple(class_names(count))
    labels = torch.arange(count).repeat_interleave(shots)
    z = F.normalize(torch.randn(len(labels), 1, backbone.embed_dim), dim=-1)
    support = Examples(z, labels)
    recipes = [
        Recipe(epochs=EPOCHS[name], seed=seed, lr=lr)
        for seed in range(runs // 2)
        for lr in (0.002, 0.01)
    ]

    def trainings() -> list[Training]:
        methods = [
            find_method(name).cls.build(backbone, Task(classes, seed=r.seed)) for r in recipes
        ]
        return [Training(m, support, r) for m, r in zip(methods, recipes, strict=True)]

    def plain() -> None:
        for training in trainings():
            training.alone()

    def ours() -> None:
        for trained in train_together(trainings()):
            assert isinstance(trained, Trained) and trained.runs == runs, trained

    budget = 1 if args.tiny else 20
    times = common.in_turn(plain, ours, device=args.device, budget=budget)
    return Row(f"{runs} runs of {name}, {EPOCHS[name]} epochs", "s", *times)


if __name__ == "__main__":
    common.run("together", common.parser(__doc__), measure)
