"""The linear probe: scikit-learn at a tight tolerance, and ours, at the same optimum.

100 classes, 16 images a class, features of 512 numbers. The note says by how much each way's
objective lies above the lower one's, relative to it: the time counts only where both are at the
optimum.
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
from clip_adapt.method import find
from clip_adapt.task import Task

TOLERANCE = 1e-8


def measure(args: Any) -> list[Row]:
    """Return the table's rows."""
    count, shots = (3, 4) if args.tiny else (100, 16)
    _, backbone = towers(args.architecture, args.device)
    task = Task(tuple(class_names(count)), shots=shots)
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(count, backbone.embed_dim, generator=generator), dim=1)
    y = torch.arange(count).repeat_interleave(shots)
    noise = torch.randn(len(y), backbone.embed_dim, generator=generator)
    z = F.normalize(centres[y] + 2.5 * F.normalize(noise, dim=1), dim=1)
    with threadpool_limits(args.threads):
        return [_compare(args, backbone, task, z, y, c) for c in (0.01, 1.0, 100.0)]


def _compare(args: Any, backbone: Any, task: Task, z: Tensor, y: Tensor, c: float) -> Row:
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    x = z.double().numpy()

    def plain() -> None:
        model = LogisticRegression(C=c, tol=TOLERANCE, max_iter=100_000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that it could not do better
            model.fit(x, y.numpy())
        found["plain"] = model.coef_, model.intercept_

    def ours() -> None:
        method = find("linear_probe").cls(backbone, task, C=c)
        method.fit(z.to(args.device), y.to(args.device))
        found["ours"] = tuple(t.double().cpu().numpy() for t in (method.weight, method.bias))

    budget = 1 if args.tiny else 15
    times = common.in_turn(plain, ours, device=args.device, budget=budget)
    values = {way: objective(x, y.numpy(), *solution, c) for way, solution in found.items()}
    lowest = min(values.values())
    note = ", ".join(f"{way} +{value / lowest - 1:.0e}" for way, value in values.items())
    return Row(f"{len(task.classes)} classes, C = {c:g}", "s", *times, note)


def objective(x: np.ndarray, y: np.ndarray, w: np.ndarray, b: np.ndarray, c: float) -> float:
    """Return C times the summed cross entropy plus half the squared weights."""
    logits = x @ w.T + b
    highest = logits.max(1, keepdims=True)
    total = highest[:, 0] + np.log(np.exp(logits - highest).sum(1))
    loss = (total - logits[np.arange(len(y)), y]).sum()
    return float(c * loss + 0.5 * (w**2).sum())


if __name__ == "__main__":
    common.run("probe", common.parser(__doc__), measure)
