"""CLIP-Adapter: a small residual MLP adapts the image feature, the text feature, or both.

    f' = normalise(ratio * act(W2 act(W1 f)) + (1 - ratio) * f),     logits = logit_scale * f' w'

Gao et al. 2021, https://arxiv.org/abs/2110.04544, equations 3 to 6. Learned: 2 * D * D / reduction
numbers a side, without biases (131,072 on ViT-B/16), and the ratio's one when it is learned.

depth=2 is the published MLP, D -> D / reduction -> D with the activation behind each layer. depth=1
is one layer D -> D (``reduction`` plays no part), depth=3 puts a layer of D / reduction in between.
As in the authors' code the ratio is fixed at 0.2 and the image side alone is adapted. In contrast
to it the MLP gets unit features; with ReLU and no bias it scales with its input, so the direction
of f' is the same. A learned ratio is the sigmoid of a number that starts at ``ratio``.
"""

from __future__ import annotations

from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config.values import Between
from clip_adapt.data.task import Task
from clip_adapt.method.contract import Method
from clip_adapt.method.layers import make_linear

Activation = Literal["relu", "gelu", "silu", "tanh"]
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


class Adapter(Method):
    """Residual feature adapters.

    Args:
        backbone: the frozen towers.
        task: the classes.
        side: which features are adapted.
        ratio: the MLP's share in the adapted feature, 0 to 1.
        learn_ratio: learn the ratio, one for each adapted side, starting at ``ratio``.
        reduction: D over the width of the hidden layer.
        activation: behind every layer.
        depth: number of layers.

    Raises:
        ValueError: when a learned ratio is to start at 0 or 1, where it would stay.
    """

    works_on_other_classes = True
    trains_on_captions = True
    quick = True
    renamed_options = MappingProxyType({"on": "side"})  # YAML 1.1 reads "on" as true

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        *,
        side: Literal["image", "text", "both"] = "image",
        ratio: Annotated[float, Between(0, 1)] = 0.2,
        learn_ratio: bool = False,
        reduction: Annotated[int, Between(1)] = 4,
        activation: Activation = "relu",
        depth: Annotated[int, Between(1, 3)] = 2,
    ) -> None:
        super().__init__(backbone, task)
        if learn_ratio and ratio in (0, 1):
            raise ValueError(
                f"method.ratio={ratio:g} cannot be learned from: with method.learn_ratio=true "
                "expected a number above 0 and below 1"
            )
        self.sides = nn.ModuleDict()
        for name in ("image", "text") if side == "both" else (side,):
            layers = self._layers(reduction, ACTIVATIONS[activation], depth)
            self.sides[name] = Residual(layers, ratio, learn_ratio)
        self.to(backbone.device)

    def image_features(self, z: Tensor) -> Tensor:
        """Return image features (N, D), adapted when the image side is; unit length."""
        return self._adapt("image", z)

    def text_features(self, t: Tensor) -> Tensor:
        """Return text features (C, D), adapted when the text side is; unit length."""
        return self._adapt("text", t)

    def _adapt(self, side: str, features: Tensor) -> Tensor:
        return self.sides[side](features) if side in self.sides else features

    def _layers(self, reduction: int, activation: type[nn.Module], depth: int) -> nn.Sequential:
        width = self.backbone.embed_dim
        widths = [width, *[max(1, width // reduction)] * (depth - 1), width]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [
                make_linear(inputs, outputs, bias=False, generator=self.generator),
                activation(),
            ]
        return nn.Sequential(*layers)


class Residual(nn.Module):
    """Mixes a feature (N, D) with what the layers make of it, and normalises."""

    def __init__(self, layers: nn.Sequential, ratio: float, learn_ratio: bool) -> None:
        super().__init__()
        self.layers = layers
        self.fixed = ratio
        start = torch.tensor(ratio).logit() if learn_ratio else None
        self.ratio_logit = nn.Parameter(start) if start is not None else None

    def forward(self, features: Tensor) -> Tensor:
        """Return the adapted features (N, D), unit length."""
        ratio = self.fixed if self.ratio_logit is None else self.ratio_logit.sigmoid()
        return F.normalize(ratio * self.layers(features) + (1 - ratio) * features, dim=1)
