"""The captions of images: what each owns, and which one it has in an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from clip_adapt.data.items import Item


@dataclass(frozen=True)
class Captions:
    """The captions of N images, each different text once.

    Attributes:
        texts: M different captions.
        own: for every image the indices of its captions in ``texts``; copies of an image have all
            captions of one another.
    """

    texts: list[str]
    own: list[list[int]]
    _tables: dict[torch.device, Tensor] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, items: Sequence[Item], keys: Sequence[str]) -> Captions:
        """Return the captions of items; equal ``keys`` (digests) say that images are copies."""
        index: dict[str, int] = {}
        of_key: dict[str, dict[int, None]] = {}  # a set that keeps its order
        for item, key in zip(items, keys, strict=True):
            numbers = [index.setdefault(str(text), len(index)) for text in item.captions]
            of_key.setdefault(key, {}).update(dict.fromkeys(numbers))
        return cls(list(index), [list(of_key[key]) for key in keys])

    def draw(self, generator: torch.Generator) -> Tensor:
        """Return one caption for every image (N,), each as likely as its others."""
        shares = torch.rand(len(self.own), generator=generator, dtype=torch.float64).tolist()
        pairs = zip(self.own, shares, strict=True)
        return torch.tensor([own[int(share * len(own))] for own, share in pairs])

    def right(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return which texts are right for which images (n, m), both given by their indices.

        A text is right for an image that has it among its captions, drawn in this epoch or not.
        """
        device = images.device
        if device not in self._tables:  # kept there: a training step must not wait for a copy
            self._tables[device] = self._table.to(device)
        owned = self._tables[device][images]  # (n, most captions of an image)
        return (owned[:, :, None] == texts[None, None]).any(1)

    @cached_property
    def _table(self) -> Tensor:
        table = torch.full((len(self.own), max(map(len, self.own))), -1)
        for row, own in zip(table, self.own, strict=True):
            row[: len(own)] = torch.tensor(own)
        return table
