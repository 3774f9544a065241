"""What a training step computes: one module for a run alone, for runs side by side, for captions.

The state of the module is the method's under ``method.``; several runs put their own state into it
from outside. Processes that train together share a batch (sharing.py), and each computes its loss.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from clip_adapt.inputs.batches import Batches
from clip_adapt.method.contract import Method
from clip_adapt.training.examples import Examples, measure_accuracy
from clip_adapt.training.recipe import Recipe
from clip_adapt.training.sharing import gather_rows, take_part


class Step(nn.Module):
    """The loss of a batch; a subclass says what an objective makes a batch of.

    Args:
        method: what is trained.
        support: what it is trained on.
        recipe: how; its seed is that of what a step draws by itself.

    Attributes:
        is_stackable: True when the batches of several runs are tensors of the same shapes, so that
            the runs can make their steps together.
        is_compilable: True when ``forward`` may be compiled as a whole, because no tower runs in
            it; compiled towers stay fast without.
    """

    is_stackable = True
    is_compilable = False

    def __init__(self, method: Method, support: Examples, recipe: Recipe) -> None:
        super().__init__()
        self.method = method
        self.batches = Batches(support.inputs, support.labels, method.backbone.device)
        self.epoch: int | None = None

    method: Method

    def batch(self, rows: Tensor, epoch: int) -> tuple[Any, ...]:
        """Put a batch together on the device, without waiting for what that is doing.

        Of several processes each takes its part of the images, and all of the labels.

        Args:
            rows: numbers of images (n,), on the CPU, the same in every process.
            epoch: says which view of each is wanted.

        Returns:
            the arguments of ``forward``.
        """
        if epoch != self.epoch:
            self.epoch = epoch
            self.start_epoch(epoch)
        inputs = self.batches.inputs_at(take_part(rows))
        return inputs if self.method.tunes_image_tower else inputs[:, 0], self.batches.labels.at(
            rows
        )

    def start_epoch(self, epoch: int) -> None:
        """Prepare the batches of an epoch."""
        self.batches.set_epoch(epoch)

    def forward(self, *batch: Any) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch, and how many of its images are right (a float).

        Of several processes each gets its part of the images; ``gather_rows`` puts what it makes
        of them together with the others', and the loss is that of all.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what its loss is")

    def score(self, val: Examples) -> tuple[str, float]:
        """Return by what ``select=val`` chooses an epoch: its name, and its value on ``val``."""
        raise NotImplementedError(f"{type(self).__name__} has no score to choose an epoch by")

    @property
    def is_half(self) -> bool:
        """Whether the method computes in half of float32's bits: on a GPU, as the towers do."""
        backbone = self.method.backbone
        halves = (torch.bfloat16, torch.float16)
        return backbone.device.type != "cpu" and backbone.dtype in halves

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which a method computes.

        It stands around the method alone; losses are computed in at least float32.
        """
        backbone = self.method.backbone
        if not self.is_half:
            return contextlib.nullcontext()
        return torch.autocast(backbone.device.type, backbone.dtype)


class ClassStep(Step):
    """The step of classes: the method's own loss of its logits, and its penalty."""

    def __init__(self, method: Method, support: Examples, recipe: Recipe) -> None:
        super().__init__(method, support, recipe)
        self.is_compilable = method.quick
        if method.quick and method.backbone.compiles:
            _ = method.zero_shot_weights  # computed once, so no part of a step

    def forward(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss and hits of features (n, D) or pixels (n, 3, S, S) with labels (n,).

        Of several processes each has its part of the features or pixels.
        """
        method, total = self.method, len(labels)
        z = method.encode_image(inputs) if method.tunes_image_tower else inputs
        if method.penalizes:
            logits, w = self._compare(z)
            logits = gather_rows(logits, total)
            z, frozen = (gather_rows(x, total) for x in (z, self._encode_frozen(inputs)))
            loss = method.loss(logits, labels) + method.penalty(z, frozen, w)
        else:
            with self.autocast():  # not by way of weights(), which a method may do without
                logits = method(z)
            logits = gather_rows(raise_to_float32(logits), total)
            loss = method.loss(logits, labels)
        return loss, (logits.argmax(1) == labels).sum().float()

    def _compare(self, z: Tensor) -> tuple[Tensor, Tensor]:
        # Logits (n, C), and the class weights (C, D) that they come from.
        with self.autocast():
            w = self.method.weights()
            logits = self.method.logits(z, w)
        return raise_to_float32(logits), raise_to_float32(w)

    def _encode_frozen(self, inputs: Tensor) -> Tensor:
        # The frozen tower's features (n, D) of the same views.
        if not self.method.tunes_image_tower:
            return inputs
        with torch.no_grad():
            return self.method.backbone.encode_image(inputs)

    def score(self, val: Examples) -> tuple[str, float]:
        """Return the accuracy on ``val``."""
        return "val_accuracy", measure_accuracy(self.method, val)


MakeStep = Callable[[Method, Examples, Recipe], Step]


def raise_to_float32(tensor: Tensor) -> Tensor:
    """Return a tensor in float32, or in float64 when it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
