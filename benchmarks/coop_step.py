"""One training step of CoOp: the text side alone, the whole step, and the memory.

Plain is the published step: every prompt at 77 positions, and 32 images through the image tower.
Ours is the engine's: the packed text tower, and image features that are there already.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import common
from benchmarks.common import Row
from benchmarks.published import N_CTX, PromptLearner, class_names, towers
from clip_adapt.data.task import Task
from clip_adapt.method.finding import find_method

BATCH = 32


class Step:
    """One step in both ways, on the same weights, context and images."""

    def __init__(self, args: Any, count: int) -> None:
        self.model, self.backbone = towers(args.architecture, args.device)
        names = class_names(count)
        self.plain = PromptLearner(self.model.text, self.backbone.tokenizer, names)
        self.ours = find_method("coop").cls(self.backbone, Task(tuple(names)), n_ctx=N_CTX).train()
        self.ours.ctx.data.copy_(self.plain.ctx.data)
        size = self.backbone.image_size
        generator = torch.Generator().manual_seed(2)
        self.pixels = torch.randn(BATCH, 3, size, size, generator=generator).to(args.device)
        self.labels = (torch.arange(BATCH) % count).to(args.device)
        self.z = F.normalize(
            torch.randn(BATCH, self.backbone.embed_dim, generator=generator), dim=1
        )
        self.z = self.z.to(args.device)

    def plain_text(self) -> None:
        """Encode all prompts and go back to the context."""
        self._learn(self.plain, self.plain(), self.z)

    def our_text(self) -> None:
        """The same, packed."""
        self._learn(self.ours, self.ours.weights(), self.z)

    def plain_whole(self) -> None:
        """Encode the images, then all prompts, and go back."""
        z = F.normalize(self.model.visual(self.pixels), dim=-1)
        self._learn(self.plain, self.plain(), z)

    def disagreement(self) -> float:
        """Return the largest difference between the two ways' gradients, over the largest entry."""
        for method in (self.plain, self.ours):
            method.zero_grad()
        self.plain_text()
        self.our_text()
        theirs, ours = self.plain.ctx.grad, self.ours.ctx.grad
        assert isinstance(theirs, Tensor) and isinstance(ours, Tensor), "both ways learn"
        return float((theirs - ours).abs().max() / theirs.abs().max())

    def _learn(self, method: nn.Module, w: Tensor, z: Tensor) -> None:
        method.zero_grad()
        logits = self.backbone.logit_scale * z @ w.T
        F.cross_entropy(logits, self.labels).backward()


def measure(args: Any) -> list[Row]:
    """Return the table's rows."""
    rows = []
    for count in (2, 4) if args.tiny else (10, 100):
        step = Step(args, count)
        agree = f"gradients differ by {step.disagreement():.0e}"
        budget = 1 if args.tiny else 12
        times = common.in_turn(step.plain_text, step.our_text, device=args.device, budget=budget)
        rows.append(Row(f"text side, {count} classes", "s", *times, agree))
        whole = common.in_turn(step.plain_whole, step.our_text, device=args.device, budget=budget)
        rows.append(Row(f"whole step, {count} classes", "s", *whole, "ours: features cached"))
        del step
    rows.append(Row(f"peak memory, {count} classes", "MB", *_memory(args, count, "plain", "ours")))
    return rows + _many(args, count, rows[-1].plain)


def _many(args: Any, known: int, megabytes: float | None) -> list[Row]:
    assert megabytes is not None, "the memory of the plain way was measured"
    count = 8 if args.tiny else 1000
    expected = megabytes * count / known
    step = Step(args, count)
    ours = common.best(step.our_text, device=args.device)
    note = f"plain: {known} classes times {count // known}; {_or_not(expected, args)} here"
    memory = _memory(args, count, "ours")
    return [
        Row(f"text side, {count} classes", "s", None, ours),
        Row(f"peak memory, {count} classes", "MB", expected, *memory, note),
    ]


def _or_not(megabytes: float, args: Any) -> str:
    return "fits" if common.fits(megabytes, args.device) else "does not fit"


def _memory(args: Any, count: int, *ways: str) -> list[float]:
    general = ["--device", args.device, "--architecture", args.architecture]
    general += ["--threads", args.threads, "--classes", count]
    return [common.in_process("benchmarks.coop_step", "--memory", w, *general) for w in ways]


def main() -> None:
    """Measure, or tell the memory of one way in this process."""
    parser = common.parser(__doc__)
    parser.add_argument("--memory", choices=("plain", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--classes", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.memory:
        common.run("coop_step", parser, measure)
        return
    torch.set_num_threads(args.threads)
    step = Step(args, args.classes)
    way: Callable[[], None] = {"plain": step.plain_text, "ours": step.our_text}[args.memory]
    print(json.dumps(common.peak_memory(way, args.device)))


if __name__ == "__main__":
    main()
