"""Tip-Adapter's search for alpha and beta: point by point, and by the intervals of alpha.

100 classes, 16 shots, 400 val images, 200 values of beta times 20 of alpha. Plain is the published
search on affinities that are computed once: at every point the cache's logits anew, then an argmax.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from benchmarks import common
from benchmarks.common import Row
from benchmarks.published import class_names, towers
from clip_adapt.method import find
from clip_adapt.task import Task


def measure(args: Any) -> list[Row]:
    """Return the table's rows."""
    count, shots, val = (3, 2, 2) if args.tiny else (100, 16, 4)
    _, backbone = towers(args.architecture, args.device)
    generator = torch.Generator().manual_seed(0)
    width = backbone.embed_dim
    centres = torch.randn(count, width, generator=generator)

    def draw(images: int) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.arange(count).repeat_interleave(images)
        z = centres[y] + 3 * torch.randn(len(y), width, generator=generator)
        return F.normalize(z, dim=1).to(args.device), y.to(args.device)

    z, y = draw(shots)
    task = Task(tuple(class_names(count)), shots=shots)
    method = find("tip_adapter").cls(backbone, task).to(args.device)
    method.validation = draw(val)
    method.fit(z, y)
    best: dict[str, float] = {}

    def plain() -> None:
        zv, yv = method.validation
        values = F.one_hot(y, count).to(z.dtype)
        affinity = zv @ z.T
        zero_shot = backbone.logit_scale * zv @ method.zero_shot_weights.T
        best["plain"] = -1.0
        for beta in method.betas.tolist():
            for alpha in method.alphas.tolist():
                cache = (-beta * (1 - affinity)).exp() @ values
                hits = ((zero_shot + alpha * cache).argmax(1) == yv).float().mean()
                best["plain"] = max(best["plain"], float(hits))

    def ours() -> None:
        method.finish()
        zv, yv = method.validation
        with torch.no_grad():
            best["ours"] = float((method.eval()(zv).argmax(1) == yv).float().mean())

    with torch.no_grad():
        times = common.in_turn(plain, ours, device=args.device, budget=1 if args.tiny else 20)
    points = f"{len(method.betas)} x {len(method.alphas)} points"
    note = ", ".join(f"{way} finds {value:.4f}" for way, value in best.items())
    return [Row(f"{count} classes, {shots} shots, {points}", "s", *times, note)]


if __name__ == "__main__":
    common.run("tip_search", common.parser(__doc__), measure)
