"""Tip-Adapter's search for alpha and beta: point by point, and by the intervals of alpha.

16 shots, 4 val images a class, 200 values of beta times 20 of alpha. Plain is the published search
on affinities that are there already: at every point the cache's logits anew, then an argmax. With
1000 classes plain would take an hour, so there it is measured at a few points of the grid. Ours
includes the affinities.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks import common
from benchmarks.common import Row
from benchmarks.published import class_names, towers
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.data.task import Task
from clip_adapt.method.finding import find_method

SHOTS, VAL = 16, 4
CASES = {100: 1, 1000: 397}  # classes: plain is measured at one point in so many


def measure(args: Any) -> list[Row]:
    """Return the table's rows."""
    _, backbone = towers(args.architecture, args.device)
    cases = {3: 397} if args.tiny else CASES
    return [_compare(args, backbone, *case) for case in cases.items()]


def _compare(args: Any, backbone: Backbone, count: int, every: int) -> Row:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(count, backbone.embed_dim, generator=generator)

    def draw(images: int) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.arange(count).repeat_interleave(images)
        z = centres[y] + 3 * torch.randn(len(y), backbone.embed_dim, generator=generator)
        return F.normalize(z, dim=1).to(args.device), y.to(args.device)

    z, y = draw(SHOTS)
    task = Task(tuple(class_names(count)), shots=SHOTS)
    method = find_method("tip_adapter").cls(backbone, task).to(args.device)
    method.validation = zv, yv = draw(VAL)
    method.fit(z, y)
    points = list(itertools.product(method.betas.tolist(), method.alphas.tolist()))
    best: dict[str, float] = {}
    values, affinity = F.one_hot(y, count).to(z.dtype), zv @ z.T
    zero_shot = backbone.logit_scale * zv @ method.zero_shot_weights.T

    def plain() -> None:
        right = []
        for beta, alpha in points[::every]:
            cache = (-beta * (1 - affinity)).exp() @ values
            right.append(((zero_shot + alpha * cache).argmax(1) == yv).float().mean())
        best["plain"] = float(max(right))

    def ours() -> None:
        method.finish()
        best["ours"] = float((method.eval()(zv).argmax(1) == yv).float().mean())

    budget = 1 if args.tiny else 20
    with torch.no_grad():
        theirs, spent = common.in_turn(plain, ours, device=args.device, budget=budget)
    case = f"{count} classes, {len(method.betas)} x {len(method.alphas)} points"
    note = ", ".join(f"{way} finds {value:.4f}" for way, value in best.items())
    measured = len(points[::every])
    if every > 1:
        note = f"plain: estimated from {measured} points; {note}"
    return Row(case, "s", theirs * len(points) / measured, spent, note)


if __name__ == "__main__":
    common.run("tip_search", common.parser(__doc__), measure)
