"""The linear probe: scikit-learn at a tight tolerance, and ours, at the same optimum.

100 classes, 16 images a class, features of 512 numbers with a common mean and a falling spectrum,
as CLIP's have. For a given C the note says by how much each way's objective lies above the lower
one's, relative to it: times compare only where both are at the optimum. The search is the published
one, chosen on 4 val images a class: scikit-learn makes all of its 23 fits anew, ours goes on from
the last and tries no C twice.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks import common
from benchmarks.common import Row
from benchmarks.published import class_names, towers
from clip_adapt.data.task import Task
from clip_adapt.method.finding import find_method

TOLERANCE = 1e-8
VAL = 4


class Problem:
    """Features of a support and a val set, and both ways to fit them."""

    def __init__(self, args: Any) -> None:
        self.args = args
        count, shots = (3, 4) if args.tiny else (100, 16)
        _, self.backbone = towers(args.architecture, args.device)
        self.task = Task(tuple(class_names(count)), shots=shots)
        generator = torch.Generator().manual_seed(0)
        width = self.backbone.embed_dim
        spectrum = torch.arange(1, width + 1) ** -0.5
        common_part = F.normalize(torch.randn(width, generator=generator), dim=0)
        centres = torch.randn(count, width, generator=generator) * spectrum

        def draw(images: int) -> tuple[Tensor, Tensor]:
            y = torch.arange(count).repeat_interleave(images)
            noise = torch.randn(len(y), width, generator=generator) * spectrum
            z = F.normalize(centres[y] + 1.5 * noise, dim=1)
            return F.normalize(0.6 * z + 0.8 * common_part, dim=1), y

        self.z, self.y = draw(shots)
        self.val = draw(VAL)

    def plain(self, c: float) -> tuple[np.ndarray, np.ndarray]:
        """Fit with scikit-learn: W (C, D) and b (C,)."""
        model = LogisticRegression(C=c, tol=TOLERANCE, max_iter=100_000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that it could not do better
            model.fit(self.z.double().numpy(), self.y.numpy())
        return model.coef_, model.intercept_

    def plain_search(self) -> float:
        """Search for C with scikit-learn."""
        z, y = (t.numpy() for t in self.val)

        def accuracy(c: float) -> float:
            w, b = self.plain(c)
            return float(((z @ w.T + b).argmax(1) == y).mean())

        grid = [6, 4, 2, 0, -2, -4, -6]
        scores = [accuracy(10.0**power) for power in grid]
        left = grid[int(np.argmax(scores))] - 1.0
        right = left + 2
        for _ in range(8):
            middle, rises = (left + right) / 2, accuracy(10**left) < accuracy(10**right)
            best = right if rises else left
            left, right = (middle, right) if rises else (left, middle)
        return 10**best

    def ours(self, c: Any) -> tuple[np.ndarray, np.ndarray]:
        """Fit with the method; ``auto`` searches."""
        device = self.args.device
        method = find_method("linear_probe").cls(self.backbone, self.task, C=c)
        if c == "auto":
            method.validation = (self.val[0].to(device), self.val[1].to(device))
        method.fit(self.z.to(device), self.y.to(device))
        weight, bias = (t.double().cpu().numpy() for t in (method.weight, method.bias))
        return weight, bias

    def objective(self, w: np.ndarray, b: np.ndarray, c: float) -> float:
        """Return C times the summed cross entropy plus half the squared weights."""
        logits = torch.from_numpy(self.z.double().numpy() @ w.T + b)
        return c * F.cross_entropy(logits, self.y, reduction="sum").item() + 0.5 * (w**2).sum()


def measure(args: Any) -> list[Row]:
    """Return the table's rows."""
    problem = Problem(args)
    with threadpool_limits(args.threads):
        rows = [_fit(problem, c) for c in (0.01, 1.0, 100.0)]
        budget = 1 if args.tiny else 20
        times = common.in_turn(problem.plain_search, lambda: problem.ours("auto"), budget=budget)
    return [*rows, Row(f"{len(problem.task.classes)} classes, search for C", "s", *times)]


def _fit(problem: Problem, c: float) -> Row:
    ways = {"plain": problem.plain, "ours": problem.ours}
    values = {name: problem.objective(*way(c), c) for name, way in ways.items()}
    lowest = min(values.values())
    note = ", ".join(f"{way} +{value / lowest - 1:.0e}" for way, value in values.items())
    budget = 1 if problem.args.tiny else 10
    times = common.in_turn(lambda: problem.plain(c), lambda: problem.ours(c), budget=budget)
    return Row(f"{len(problem.task.classes)} classes, C = {c:g}", "s", *times, note)


if __name__ == "__main__":
    common.run("probe", common.parser(__doc__), measure)
