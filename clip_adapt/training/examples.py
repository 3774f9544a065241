"""What a method is trained on and looked at: features or pixels, with labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from clip_adapt.inputs.batches import Batches
from clip_adapt.method.contract import Method
from clip_adapt.system.launch.processes import count_processes, share_work
from clip_adapt.training.recipe import Recipe

EVAL_BATCH, PIXEL_BATCH = 1024, 32


@dataclass(frozen=True)
class Examples:
    """What is trained on: image features (N, V, D) or a data set of pixels, and labels (N,).

    A data set of pixels yields (pixels (3, S, S), label), and has ``set_epoch(epoch)`` when its
    views change from epoch to epoch. One that has ``batch(rows)`` makes the pixels (n, 3, S, S) of
    many images at once, where the method computes.
    """

    inputs: Tensor | Dataset[Any]
    labels: Tensor

    def loader(self, recipe: Recipe, generator: torch.Generator) -> DataLoader[Any]:
        """Return batches in an order that the generator decides."""
        data = (
            TensorDataset(self.inputs, self.labels)
            if isinstance(self.inputs, Tensor)
            else self.inputs
        )
        return DataLoader(
            data,
            batch_size=recipe.batch_size,
            shuffle=True,
            generator=generator,
            drop_last=recipe.drop_last and len(self.labels) >= recipe.batch_size,
        )

    def order(self, recipe: Recipe, generator: torch.Generator) -> DataLoader[Any]:
        """Return the row numbers (n,) of the batches that ``loader`` gives."""
        numbers: Any = range(len(self.labels))
        return Examples(numbers, self.labels).loader(recipe, generator)


def measure_accuracy(method: Method, examples: Examples) -> float:
    """Return the accuracy (0 to 1) of a method on examples, in eval mode, centre view."""
    hits = compute_logits(method, examples).argmax(1) == examples.labels
    return float(hits.float().mean())


def compute_logits(method: Method, examples: Examples) -> Tensor:
    """Return the logits (N, C) of examples, in eval mode, centre view, float32 on the CPU."""
    method.eval()
    with torch.no_grad():
        return torch.cat([method(z).float().cpu() for z in encode_images(method, examples)])


def encode_images(method: Method, examples: Examples) -> Iterator[Tensor]:
    """Yield the features (n, D) of examples, centre view, as ``encode_image`` gives them."""
    device = method.backbone.device
    if isinstance(examples.inputs, Tensor):
        yield from (part.to(device) for part in examples.inputs[:, 0].split(EVAL_BATCH))
        return
    batches = Batches(examples.inputs, examples.labels, device)

    def encode(rows: Sequence[int]) -> Iterator[Tensor]:
        for part in torch.tensor(rows).split(PIXEL_BATCH):
            yield method.encode_image(batches.inputs_at(part))

    numbers = range(len(examples.labels))
    if count_processes() == 1:
        yield from encode(numbers)
        return
    shared = share_work(
        lambda rows: [z.clone() for part in encode(rows) for z in part.cpu()], numbers
    )
    yield from (part.to(device) for part in torch.stack(shared).split(EVAL_BATCH))
