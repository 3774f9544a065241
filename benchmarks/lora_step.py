"""One training step of CLIP-LoRA: both towers tuned, images and prompts forward and back.

Plain is the published step: full B A matrices, every prompt at 77 positions, all tokens in every
block. Ours: low-rank order, prompts packed without padding, class and end tokens alone in the last
block. Dropout is 0.25 in both. A step's share of images grows with the batch, and ours gains on the
text side: the published batch of 32 is measured beside a batch of 4.
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
from benchmarks.published import PublishedLoRA, class_names, towers
from clip_adapt.data.task import Task
from clip_adapt.method.finding import find_method


class Step:
    """One step in both ways, on the same weights, updates and images."""

    def __init__(self, args: Any, count: int, batch: int, dropout: float = 0.25) -> None:
        model, backbone = towers(args.architecture, args.device)
        names = class_names(count)
        self.plain = PublishedLoRA(model, backbone.tokenizer, names, dropout).train()
        for module in model.modules():
            module.training = False
        for block in self.plain.model.modules():
            if hasattr(block, "updates"):
                block.dropout.train()
        self.ours = find_method("lora").cls(backbone, Task(tuple(names)), dropout=dropout).train()
        self._same_updates()
        generator = torch.Generator().manual_seed(2)
        size = backbone.image_size
        self.pixels = torch.randn(batch, 3, size, size, generator=generator).to(args.device)
        self.labels = (torch.arange(batch) % count).to(args.device)

    def _same_updates(self) -> None:
        generator = torch.Generator().manual_seed(3)
        ours = dict(self.ours.named_parameters())
        with torch.no_grad():
            for block, updates in self.plain.updates.items():
                side, index = block.split("-")
                for name, tensor in updates.items():
                    tensor.copy_(0.05 * torch.randn(tensor.shape, generator=generator))
                    layer = f"{side}.transformer.resblocks.{index}.attn.{name[0]}_proj"
                    ours[f"{layer}.lora_{name[1]}.weight"].copy_(tensor)

    def plain_step(self) -> None:
        """Forward and back, as published."""
        self.plain.zero_grad()
        F.cross_entropy(self.plain(self.pixels), self.labels).backward()

    def our_step(self) -> None:
        """Forward and back, the engine's way."""
        self.ours.zero_grad()
        logits = self.ours(self.ours.encode_image(self.pixels))
        F.cross_entropy(logits, self.labels).backward()

    def disagreement(self) -> float:
        """Return the largest difference between the gradients of B, over their largest entry."""
        self.plain_step()
        self.our_step()
        ours = dict(self.ours.named_parameters())
        apart, largest = 0.0, 0.0
        for block, updates in self.plain.updates.items():
            side, index = block.split("-")
            for name, tensor in updates.items():
                layer = f"{side}.transformer.resblocks.{index}.attn.{name[0]}_proj"
                other = ours[f"{layer}.lora_{name[1]}.weight"].grad
                assert tensor.grad is not None and other is not None, "both ways learn"
                apart = max(apart, float((tensor.grad - other).abs().max()))
                largest = max(largest, float(tensor.grad.abs().max()))
        return apart / largest


def measure(args: Any) -> list[Row]:
    """Return the table's rows."""
    counts, batches = ((2, 4), (2, 3)) if args.tiny else ((10, 100), (4, 32))
    exact = Step(args, counts[0], 2, dropout=0.0).disagreement()
    note = f"without dropout gradients differ by {exact:.0e}"
    rows = []
    for count, batch in ((counts[0], batches[0]), (counts[1], batches[0]), (counts[1], batches[1])):
        step = Step(args, count, batch)
        times = common.in_turn(step.plain_step, step.our_step, device=args.device, budget=1)
        rows.append(Row(f"{count} classes, {batch} images", "s", *times, note))
        note = ""
        del step
    for count in counts:
        memory = [_memory(args, count, batches[0], way) for way in ("plain", "ours")]
        rows.append(Row(f"peak memory, {count} classes, {batches[0]} images", "MB", *memory))
    return rows


def _memory(args: Any, count: int, batch: int, way: str) -> float:
    general = ["--device", args.device, "--architecture", args.architecture]
    words = ["--threads", args.threads, "--classes", count, "--batch", batch]
    return common.in_process("benchmarks.lora_step", "--memory", way, *general, *words)


def main() -> None:
    """Measure, or tell the memory of one way in this process."""
    parser = common.parser(__doc__)
    parser.add_argument("--memory", choices=("plain", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--classes", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.memory:
        common.run("lora_step", parser, measure)
        return
    torch.set_num_threads(args.threads)
    step = Step(args, args.classes, args.batch)
    way: Callable[[], None] = {"plain": step.plain_step, "ours": step.our_step}[args.memory]
    print(json.dumps(common.peak_memory(way, args.device)))


if __name__ == "__main__":
    main()
