"""Tip-Adapter: the support set is a cache; an image is also compared with every image in it.

    logits = logit_scale * z w' + alpha * sum_k exp(-beta (1 - z key_k')) onehot(y_k)

Zhang et al. 2022, https://arxiv.org/abs/2207.09519, section 3. The keys are the features of the
support images, the normalised mean over their views. Nothing is trained with epochs=0;
Tip-Adapter-F trains the keys, shots * C * D numbers.

alpha and beta are searched on val as in the authors' code: 200 values of beta by 20 of alpha, from
0.1 up to, but not including, search_scale; the first best wins. The search is exact and fast: the
affinities are computed once, each beta costs one exponential and a sum over a class's shots, and
one pass gives all alphas (clip_adapt/intervals.py). The authors set search_scale for each data set,
from [7, 3] on ImageNet to [30, 30] on FGVCAircraft; the default covers all of these.

In contrast to the authors' code the weights of -F are those of the last step, never the epoch that
was best on test; the search is in float64; and without val alpha and beta are chosen by leaving
each support image out of the cache in turn, before training. While -F trains with val at hand,
alpha and beta are those of the authors' ImageNet configuration.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from clip_adapt import intervals
from clip_adapt.backbone import Backbone
from clip_adapt.method import Method
from clip_adapt.options import Between
from clip_adapt.task import Task

log = logging.getLogger(__name__)

START_ALPHA, START_BETA = 1.17, 1.0
LOWEST = 0.1
SCALE, STEP = [30.0, 30.0], [200, 20]  # of beta, of alpha
CHUNK = 2**24  # affinities that are held at once

Weight = Literal["auto"] | Annotated[float, Between(0)]


class TipAdapter(Method):
    """A cache of the support set beside zero-shot.

    Args:
        backbone: the frozen towers.
        task: the classes.
        alpha: weight of the cache; ``auto`` searches for it.
        beta: sharpness of the comparison with a key; ``auto`` searches for it.
        search_scale: upper ends of the grids of beta and alpha, in this order.
        search_step: numbers of values in the grids of beta and alpha, in this order.

    Raises:
        ValueError: when ``search_scale`` or ``search_step`` are not two numbers.
    """

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        *,
        alpha: Weight = "auto",
        beta: Weight = "auto",
        search_scale: list[Annotated[float, Between(LOWEST, strict=True)]] = SCALE,
        search_step: list[Annotated[int, Between(1)]] = STEP,
    ) -> None:
        super().__init__(backbone, task)
        pairs: dict[str, list[Any]] = {"search_scale": search_scale, "search_step": search_step}
        for name, value in pairs.items():
            if len(value) != 2:
                raise ValueError(
                    f"method.{name}={value}: expected two numbers, [of beta, of alpha]"
                )
        self.given = {"alpha": alpha, "beta": beta}
        self.betas = self._grid(beta, search_scale[0], search_step[0])
        self.alphas = self._grid(alpha, search_scale[1], search_step[1])
        shape, device = (len(task.classes), task.shots), backbone.device
        # One row of keys a class; a class with fewer images than shots fills a part of its row.
        self.keys = nn.Parameter(torch.zeros(*shape, backbone.embed_dim, device=device))
        self.register_buffer("filled", torch.zeros(shape, device=device))
        self.register_buffer("alpha", torch.tensor(START_ALPHA if alpha == "auto" else alpha))
        self.register_buffer("beta", torch.tensor(START_BETA if beta == "auto" else beta))
        self.to(device)

    filled: Tensor
    alpha: Tensor
    beta: Tensor

    def fit(self, z: Tensor, y: Tensor) -> None:
        """Fill the cache; without val, search for alpha and beta by leaving one image out."""
        place = _rank_in_class(y)
        assert int(place.max()) < self.task.shots, "a class has more images than the task's shots"
        with torch.no_grad():
            self.keys.zero_()[y, place] = z
            self.filled.zero_()[y, place] = 1.0
            if self.validation is None and self._searches:
                self._leave_one_out(z, y, place)

    def finish(self) -> None:
        """Search for alpha and beta on val with the keys as they are now."""
        if self.validation is not None and self._searches:
            z, y = self.validation
            self._set(self._search(z, y), "val")

    def logits(self, z: Tensor, w: Tensor) -> Tensor:
        """Return zero-shot's logits (N, C) of image features (N, D), plus the cache's."""
        affinity = torch.einsum("nd,csd->ncs", z, self.keys)
        near = torch.exp(self.beta * (affinity - 1)) * self.filled
        return super().logits(z, w) + self.alpha * near.sum(2)

    @property
    def _searches(self) -> bool:
        return "auto" in self.given.values()

    def _leave_one_out(self, z: Tensor, y: Tensor, place: Tensor) -> None:
        if len(y) == len(y.unique()):
            log.info(
                "alpha=%g beta=%g: one image a class and no val leave nothing to choose them by",
                *(self.alpha, self.beta),
            )
            return
        self._set(self._search(z, y, place), "the support set, each image left out of the cache")

    def _set(self, counts: Tensor, where: str) -> None:
        # The first of equals is taken: the smallest beta, then the smallest alpha.
        row, column = divmod(int(counts.argmax()), len(self.alphas))
        self.beta.fill_(self.betas[row])
        self.alpha.fill_(self.alphas[column])
        log.info("alpha=%.4g beta=%.4g chosen on %s", self.alpha, self.beta, where)
        if 0 < column == len(self.alphas) - 1:
            log.info("alpha is the largest of its grid: a larger method.search_scale may be better")

    def _search(self, z: Tensor, y: Tensor, left_out: Tensor | None = None) -> Tensor:
        """Return the number of right images for every beta and alpha (B, A).

        Args:
            z: features (N, D).
            y: labels (N,).
            left_out: for each image the place in its class's row that is left out (N,), or None.
        """
        size = max(1, CHUNK // max(1, self.filled.numel()))
        counts = torch.zeros(len(self.betas), len(self.alphas), dtype=torch.long, device=z.device)
        for part in torch.arange(len(z), device=z.device).split(size):
            out = None if left_out is None else left_out[part]
            distance = self._distance(z[part], y[part], out)
            base = super().logits(z[part], self.zero_shot_weights).double()
            for row, beta in zip(counts, self.betas.tolist(), strict=True):
                cache = torch.exp(-beta * distance).sum(2)  # (n, C)
                row += intervals.hits(base, cache, y[part], self.alphas)
        return counts

    def _distance(self, z: Tensor, y: Tensor, left_out: Tensor | None) -> Tensor:
        # 1 - affinity (n, C, S), infinite where there is no key.
        distance = 1 - torch.einsum("nd,csd->ncs", z.double(), self.keys.double())
        distance = distance.masked_fill(self.filled == 0, torch.inf)
        if left_out is not None:
            distance[torch.arange(len(z), device=z.device), y, left_out] = torch.inf
        return distance

    def _grid(self, given: str | float, scale: float, steps: int) -> Tensor:
        values = [LOWEST + i * (scale - LOWEST) / steps for i in range(steps)]
        chosen = values if isinstance(given, str) else [given]
        return torch.tensor(chosen, dtype=torch.float64, device=self.backbone.device)


def _rank_in_class(y: Tensor) -> Tensor:
    # How many earlier images have the same label (N,).
    onehot = nn.functional.one_hot(y)
    return (onehot.cumsum(0) * onehot).sum(1) - 1
