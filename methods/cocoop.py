"""CoCoOp: context vectors that a small network shifts by the image they are compared with.

    context(z) = [V]_1 + m(z), ..., [V]_M + m(z),      m(z) = W2 relu(W1 z + b1) + b2
    logits_c = logit_scale * z text(context(z) [class name c] .)'

Zhou et al. 2022, https://arxiv.org/abs/2203.05557, section 3.2. Learned: n_ctx vectors of the text
tower's width and the network of hidden width D / 16 (35,360 numbers on ViT-B/16).

As in the authors' code the network gets the unit image feature, and the context starts from the
embedding of "a photo of a". In contrast to it the prompts of many images pass the text tower
together, which gives the same numbers as one image after the other, and what is learned is float32.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config.values import Between
from clip_adapt.data.task import Task
from clip_adapt.method.contract import Method
from clip_adapt.method.layers import make_linear

INIT_STD = 0.02
PROMPTS = 256  # that pass the text tower at once


class CoCoOp(Method):
    """Conditional context optimisation.

    Args:
        backbone: the frozen towers.
        task: the classes.
        n_ctx: number of context vectors a prompt; with ``ctx_init`` the number of its tokens.
        ctx_init: words whose embeddings the context starts from; None starts at random.
        reduction: D over the hidden width of the network.
    """

    works_on_other_classes = True

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        *,
        n_ctx: Annotated[int, Between(1)] = 4,
        ctx_init: str | None = "a photo of a",
        reduction: Annotated[int, Between(1)] = 16,
    ) -> None:
        super().__init__(backbone, task)
        dim, width = backbone.embed_dim, backbone.token_width
        hidden = max(1, dim // reduction)
        if ctx_init is None:
            start = torch.randn(n_ctx, width, generator=self.generator) * INIT_STD
        else:
            start = backbone.embed_words(ctx_init.replace("_", " "))
        self.ctx = nn.Parameter(start)  # (n_ctx, W)
        self.meta_net = nn.Sequential(
            make_linear(dim, hidden, bias=True, generator=self.generator),
            nn.ReLU(),
            make_linear(hidden, width, bias=True, generator=self.generator),
        )
        self.names = [f"{name}." for name in task.classes]
        self.to(backbone.device)

    def weights(self) -> Tensor:
        """Return what the classes look like without an image, by the context itself: (C, D)."""
        return self._encode(self.ctx.unsqueeze(0))[0]

    def forward(self, z: Tensor) -> Tensor:
        """Return the logits (N, C) of unit image features (N, D); a step needs no ``weights``."""
        return self._compare(z)

    def logits(self, z: Tensor, w: Tensor) -> Tensor:
        """Return the logits (N, C) of unit image features (N, D).

        Each image is compared with class weights of its own; ``w`` (C, D) plays no part.
        """
        return self._compare(z)

    def weights_for(self, z: Tensor) -> Tensor:
        """Return what the classes look like to each image: (N, C, D), unit length."""
        context = self.ctx + self.meta_net(z).unsqueeze(1)  # (N, n_ctx, W)
        parts = context.split(max(1, PROMPTS // len(self.names)))
        return torch.cat([self._encode(part) for part in parts])

    def _compare(self, z: Tensor) -> Tensor:
        own = self.weights_for(z)
        logits = self.backbone.logit_scale * torch.einsum("nd,ncd->nc", z, own)
        bias = self.backbone.logit_bias
        return logits if bias is None else logits + bias

    def _encode(self, context: Tensor) -> Tensor:
        images, classes = len(context), len(self.names)
        each = context.repeat_interleave(classes, dim=0)  # (N * C, n_ctx, W), classes fastest
        features = self.backbone.encode_prompts(each, self.names * images)
        return features.unflatten(0, (images, classes))
