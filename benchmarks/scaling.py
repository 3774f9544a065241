"""How our time and memory grow: with the classes (CoOp's step), and with the images (an epoch).

There is no plain way here; each row is ours alone, each memory that of a fresh process beyond what
it holds before. Features lie in memory as (N, 1, D) float32.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks import common
from benchmarks.common import Row
from benchmarks.published import N_CTX, class_names, towers
from clip_adapt.data.task import Task
from clip_adapt.method.finding import find_method
from clip_adapt.training.examples import Examples
from clip_adapt.training.loop import train
from clip_adapt.training.recipe import Recipe

CLASSES = (10, 30, 100, 300, 1000)
IMAGES = (100, 1_000, 10_000, 100_000)
BATCH = 256


def measure(args: Any) -> list[Row]:
    """Return the table's rows."""
    cases = [("classes", n) for n in ((2, 4) if args.tiny else CLASSES)]
    cases += [("images", n) for n in ((8, 16) if args.tiny else IMAGES)]
    return [row for kind, number in cases for row in _rows(args, kind, number)]


def _rows(args: Any, kind: str, number: int) -> list[Row]:
    general = ["--device", args.device, "--architecture", args.architecture]
    words = [*general, "--threads", args.threads, "--kind", kind, "--number", number]
    found = common.in_process("benchmarks.scaling", *words)
    name = {"classes": "CoOp step, {:,} classes", "images": "adapter epoch, {:,} images"}[kind]
    case = name.format(number)
    return [
        Row(case, "s", None, found["seconds"]),
        Row(f"{case}: peak memory", "MB", None, found["memory"]),
    ]


def _step(args: Any) -> Callable[[], None]:
    _, backbone = towers(args.architecture, args.device)
    task = Task(tuple(class_names(args.number)))
    method = find_method("coop").cls(backbone, task, n_ctx=N_CTX).to(args.device).train()
    z = F.normalize(torch.randn(32, backbone.embed_dim, device=args.device), dim=1)
    y = torch.arange(32, device=args.device) % args.number

    def step() -> None:
        method.zero_grad()
        method.loss(method(z), y).backward()

    return step


def _epoch(args: Any) -> Callable[[], None]:
    _, backbone = towers(args.architecture, args.device)
    method = find_method("adapter").cls(backbone, Task(tuple(class_names(10)))).to(args.device)
    z = F.normalize(torch.randn(args.number, 1, backbone.embed_dim), dim=-1)
    examples = Examples(z, torch.arange(args.number) % 10)
    assert len(method.zero_shot_weights) == 10, "made before the clock starts"
    return lambda: train(method, examples, Recipe(epochs=1, batch_size=BATCH)) and None


def main() -> None:
    """Measure, or tell time and memory of one case in this process."""
    parser = common.parser(__doc__)
    parser.add_argument("--kind", choices=("classes", "images"), help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.kind:
        common.run("scaling", parser, measure)
        return
    torch.set_num_threads(args.threads)
    way = {"classes": _step, "images": _epoch}[args.kind](args)
    memory = common.peak_memory(way, args.device)
    seconds = common.best(way, device=args.device, budget=3)
    print(json.dumps({"seconds": seconds, "memory": memory}))


if __name__ == "__main__":
    main()
