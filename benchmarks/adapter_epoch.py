"""One epoch of CLIP-Adapter: 10 classes, 64 images, batches of 32.

Plain is the published loop: in every step the images pass the image tower and the prompts pass the
text tower at 77 positions, though neither is trained. Ours is the engine's loop on features and
text features that are there already, without the one pass that makes them (see ``features``).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import common
from benchmarks.common import Row
from benchmarks.published import class_names, towers
from clip_adapt.data.task import Task
from clip_adapt.method.finding import find_method
from clip_adapt.training.examples import Examples
from clip_adapt.training.loop import train
from clip_adapt.training.recipe import Recipe

BATCH = 32
RATIO = 0.2
EPOCHS = 20


def measure(args: Any) -> list[Row]:
    """Return the table's rows."""
    count, images = (2, 4) if args.tiny else (10, 64)
    model, backbone = towers(args.architecture, args.device)
    names = class_names(count)
    width, size = backbone.embed_dim, backbone.image_size
    labels = torch.arange(images, device=args.device) % count
    pixels = torch.randn(images, 3, size, size, device=args.device)
    adapter = nn.Sequential(
        nn.Linear(width, width // 4, bias=False),
        nn.ReLU(),
        nn.Linear(width // 4, width, bias=False),
        nn.ReLU(),
    ).to(args.device)
    optimizer = torch.optim.SGD(adapter.parameters(), 0.002, 0.9)
    ids = backbone.tokenizer([f"a photo of a {name}." for name in names]).to(args.device)

    def plain() -> None:
        for x, y in zip(pixels.split(BATCH), labels.split(BATCH), strict=True):
            z = model.visual(x)
            z = F.normalize(RATIO * adapter(z) + (1 - RATIO) * z, dim=-1)
            w = F.normalize(model.text(ids), dim=-1)
            loss = F.cross_entropy(model.logit_scale.exp() * z @ w.T, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    method = find_method("adapter").cls(backbone, Task(tuple(names)))
    method.to(args.device)
    z = F.normalize(torch.randn(images, 1, width), dim=-1)

    def epochs(number: int) -> None:
        recipe = Recipe(epochs=number, batch_size=BATCH)
        train(method, Examples(z, labels.cpu()), recipe)

    def ours() -> None:
        epochs(EPOCHS)

    start = common.best(lambda: epochs(1), device=args.device, budget=2)
    theirs, spent = common.in_turn(plain, ours, device=args.device, budget=1 if args.tiny else 20)
    epoch = max((spent - start) / (EPOCHS - 1), 1e-6)
    return [Row(f"epoch, {count} classes, {images} images", "s", theirs, epoch)]


if __name__ == "__main__":
    common.run("adapter_epoch", common.parser(__doc__), measure)
