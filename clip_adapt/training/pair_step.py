"""The step of captioned images: the contrastive objective in place of classes.

Every image takes one of its captions at random in every epoch. Towers that a method leaves alone
are not run: image features come from the cache, text features from one pass over all captions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clip_adapt.data.captions import Captions
from clip_adapt.evaluation import retrieval
from clip_adapt.method.contract import Method
from clip_adapt.method.encoding import encode_texts
from clip_adapt.system.machine import send
from clip_adapt.training import contrastive
from clip_adapt.training.examples import Examples, encode_images
from clip_adapt.training.recipe import Recipe
from clip_adapt.training.sharing import gather_rows, take_part
from clip_adapt.training.step import Step, raise_to_float32


class PairStep(Step):
    """The step of pairs of images and captions.

    Args:
        method: one that ``trains_on_captions``.
        support: images, whose labels are their numbers, 0 to N - 1.
        recipe: how.
        captions: of the images of ``support``.
        val_captions: of the images that ``select=val`` chooses by.
        dedup: captions that are right for another image of the batch are no negatives of it.
    """

    def __init__(
        self,
        method: Method,
        support: Examples,
        recipe: Recipe,
        *,
        captions: Captions,
        val_captions: Captions,
        dedup: bool,
    ) -> None:
        super().__init__(method, support, recipe)
        self.captions, self.val_captions, self.dedup = captions, val_captions, dedup
        self.stream = torch.Generator().manual_seed(recipe.seed)
        frozen = not method.tunes_text_tower
        self.texts = encode_texts(method, captions.texts) if frozen else torch.empty(0)
        self.is_stackable = frozen  # words are no tensors
        self.is_compilable = frozen and not method.tunes_image_tower

    def start_epoch(self, epoch: int) -> None:
        """Draw a caption for every image."""
        super().start_epoch(epoch)
        self.drawn = self.captions.draw(self.stream)

    def batch(self, rows: Tensor, epoch: int) -> tuple[Any, ...]:
        """Return features or pixels, texts or their features, and which texts are right (n, n).

        Of several processes each has its part of the images and texts.
        """
        images, numbers = super().batch(rows, epoch)
        right = self.captions.right(numbers, send(self.drawn[rows], numbers.device))
        return images, self._choose_texts(self.drawn[take_part(rows)]), right

    def forward(
        self, images: Tensor, texts: Tensor | list[str], right: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the loss, and how many images are nearest to their own caption."""
        method, backbone = self.method, self.method.backbone
        with self.autocast():
            z = method.encode_image(images) if method.tunes_image_tower else images
            t = texts if isinstance(texts, Tensor) else method.encode_text(texts)
            z, t = method.image_features(z), method.text_features(t)
        z, t = (gather_rows(raise_to_float32(features), len(right)) for features in (z, t))
        same = right if self.dedup else None
        loss = contrastive.compute_loss(z, t, backbone.logit_scale, backbone.logit_bias, same)
        return loss, contrastive.count_hits(z.detach(), t.detach())

    def score(self, val: Examples) -> tuple[str, float]:
        """Return the recall at 1 from image to text on ``val``."""
        method = self.method.eval()
        with torch.no_grad():
            z = [method.image_features(z).float().cpu() for z in encode_images(method, val)]
            t = method.text_features(encode_texts(method, self.val_captions.texts)).float().cpu()
        found = retrieval.rank_pairs(torch.cat(z), t, self.val_captions.own)
        return "val_recall@1", found.recall(1)

    def _choose_texts(self, chosen: Tensor) -> Tensor | list[str]:
        if self.method.tunes_text_tower:
            return [self.captions.texts[i] for i in chosen.tolist()]
        return self.texts[send(chosen, self.texts.device)]
