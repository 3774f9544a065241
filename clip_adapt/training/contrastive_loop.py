"""Training on captioned images: the loop of trainer.py with the contrastive objective.

Every image takes one of its captions at random in every epoch. Towers that a method leaves alone
are not run: image features come from the cache, text features from one pass over all captions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clip_adapt.data.captions import Captions
from clip_adapt.errors import InputError
from clip_adapt.evaluation import retrieval
from clip_adapt.method.contract import Method
from clip_adapt.method.encoding import encode_texts
from clip_adapt.method.finding import find, names
from clip_adapt.system.machine import send
from clip_adapt.training import contrastive
from clip_adapt.training.loop import Examples, Loop, tower_features
from clip_adapt.training.recipe import Recipe


class CaptionLoop(Loop):
    """The training loop with the contrastive objective.

    The labels of its examples are the numbers of the images, 0 to N - 1.

    Args:
        method: one that ``trains_on_captions``.
        support: images, as for classes.
        recipe: how.
        val: images that ``select=val`` chooses by.
        log_dir: where TensorBoard event files go.
        captions: of the images of ``support``.
        val_captions: of the images of ``val``.
        dedup: captions that are right for another image of the batch are no negatives of it.
    """

    def __init__(
        self,
        method: Method,
        support: Examples,
        recipe: Recipe,
        val: Examples | None,
        log_dir: Path | None,
        *,
        captions: Captions,
        val_captions: Captions,
        dedup: bool,
    ) -> None:
        super().__init__(method, support, recipe, val, log_dir)
        self.captions, self.val_captions, self.dedup = captions, val_captions, dedup
        self.stream = torch.Generator().manual_seed(recipe.seed)
        self.drawn_in = -1
        self.drawn = torch.empty(0)
        frozen = not method.tunes_text_tower
        self.texts = encode_texts(method, captions.texts) if frozen else torch.empty(0)

    def _module(self, method: Method) -> nn.Module:
        return _Pairing(method)

    def _loss(self, rows: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        if self.drawn_in != epoch:
            self.drawn_in, self.drawn = epoch, self.captions.draw(self.stream)
        inputs, labels = self.batches.at(rows)
        images = inputs if self.plain.tunes_image_tower else inputs[:, 0]
        chosen = self.drawn[rows]
        z, t = map(contrastive.gather, self.method(images, self._texts(chosen)))
        backbone, same = self.plain.backbone, None
        if self.dedup:
            drawn = contrastive.gather(send(chosen, labels.device))
            same = self.captions.right(contrastive.gather(labels), drawn)
        loss = contrastive.loss(z, t, backbone.logit_scale, backbone.logit_bias, same)
        return loss, contrastive.hits(z.detach(), t.detach())

    def _texts(self, chosen: Tensor) -> list[str] | Tensor:
        if self.plain.tunes_text_tower:
            return [self.captions.texts[i] for i in chosen.tolist()]
        return self.texts[send(chosen, self.texts.device)]

    def _score(self, val: Examples) -> tuple[str, float]:
        method = self.plain.eval()
        with torch.no_grad():
            z = [method.image_features(z).float().cpu() for z in tower_features(method, val)]
            t = method.text_features(encode_texts(method, self.val_captions.texts)).float().cpu()
        found = retrieval.rank_pairs(torch.cat(z), t, self.val_captions.own)
        return "val_recall@1", found.recall(1)


class _Pairing(nn.Module):
    """A method as the module that processes share: images and texts in, features out."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor, texts: Any) -> tuple[Tensor, Tensor]:
        method = self.method
        z = method.encode_image(images) if method.tunes_image_tower else images
        t = method.encode_text(texts) if method.tunes_text_tower else texts
        return method.image_features(z), method.text_features(t)


def require_trainable(method: Method, name: str) -> None:
    """Refuse a method that cannot learn from captions.

    Raises:
        InputError: with the reason, and the methods that can.
    """
    able = ", ".join(n for n in names() if find(n).cls.trains_on_captions)
    if not method.trainable():
        raise InputError(
            f"objective=contrastive has nothing to train with method={name}. Use one of: {able}."
        )
    if not method.trains_on_captions:
        raise InputError(
            f"objective=contrastive: what method={name} trains (with these options) belongs to "
            f"classes or to their logits, and captions have neither. Use one of: {able}."
        )
