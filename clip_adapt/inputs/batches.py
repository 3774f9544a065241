"""The batches of a training run, put together where the method computes.

The loop's loader gives row numbers and nothing else; what they stand for lies on the device when it
fits there, so a batch costs one look-up in place of a copy per image. Nothing here waits for the
device: what must be sent to it is small, pinned, and sent in the background.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from clip_adapt.system.machine import fits, send


class Rows:
    """The rows of a tensor (N, ...), given on a device.

    All of them lie there when a quarter of its memory holds them; if not, a batch's are sent.
    """

    def __init__(self, tensor: Tensor, device: torch.device) -> None:
        self.device = device
        self.resident = fits(tensor.nbytes, device)
        self.tensor = send(tensor, device) if self.resident else tensor

    def at(self, rows: Tensor, view: int | None = None) -> Tensor:
        """Return the rows (n, ...) of the given numbers (n,), which are on the CPU.

        Args:
            rows: the numbers.
            view: of rows (V, D), only this view is wanted, as (n, 1, D).
        """
        source = self.tensor if view is None else self.tensor[:, view : view + 1]
        if self.resident:
            return source.index_select(0, send(rows, self.device))
        return send(source.index_select(0, rows), self.device)


class Batches:
    """Inputs and labels by their row numbers, on a device.

    Args:
        inputs: features (N, V, D), or a data set of pixels: one that has ``batch(rows)`` makes the
            inputs of many rows at once; any other gives (pixels, label) by row number.
        labels: (N,).
        device: where the method computes.
    """

    def __init__(self, inputs: Any, labels: Tensor, device: torch.device) -> None:
        self.inputs, self.device = inputs, device
        self.labels = Rows(labels, device)
        self.features = Rows(inputs, device) if isinstance(inputs, Tensor) else None
        self.view: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """Say which view is wanted."""
        if isinstance(self.inputs, Tensor):
            self.view = epoch % self.inputs.shape[1]
        elif hasattr(self.inputs, "set_epoch"):
            self.inputs.set_epoch(epoch)

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs and the labels of row numbers (n,), which are on the CPU.

        Inputs are features of one view (n, 1, D) once an epoch is set, else all (n, V, D); or
        pixels (n, 3, S, S).
        """
        return self.inputs_at(rows), self.labels.at(rows)

    def inputs_at(self, rows: Tensor) -> Tensor:
        """Return the inputs of row numbers (n,), as ``at`` does."""
        if self.features is not None:
            return self.features.at(rows, self.view)
        many: Callable[[list[int]], Tensor] | None = getattr(self.inputs, "batch", None)
        if many is not None:
            return many(rows.tolist())
        return send(default_collate([self.inputs[i][0] for i in rows.tolist()]), self.device)
