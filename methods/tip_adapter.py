"""Tip-Adapter: the support set is a cache; an image is also compared with every image in it.

    logits = logit_scale * z w' + alpha * sum_k exp(-beta (1 - z key_k')) onehot(y_k)

Zhang et al. 2022, https://arxiv.org/abs/2207.09519, section 3. The keys are the features of the
support images, the normalised mean over their views. Nothing is trained with epochs=0;
Tip-Adapter-F trains the keys, shots * C * D numbers.

alpha and beta are searched on val as in the authors' code: 200 values of beta by 20 of alpha, from
0.1 up to, but not including, search_scale; the first best wins. The search is exact and fast: the
affinities are computed once, the next beta multiplies their exponentials by a constant factor, the
cache is a sum over a class's shots, and one pass gives all alphas (clip_adapt/intervals.py). All of
it is done for a few images at a time, which fit into the processor's cache. The authors set
search_scale for each data set, from [7, 3] on ImageNet to [30, 30] on FGVCAircraft; the default
covers all of these.

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

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config.values import Between
from clip_adapt.data.task import Task
from clip_adapt.method import alpha_search
from clip_adapt.method.contract import Method

log = logging.getLogger(__name__)

START_ALPHA, START_BETA = 1.17, 1.0
LOWEST = 0.1
SCALE, STEP = [30.0, 30.0], [200, 20]  # of beta, of alpha
CHUNK = 2**22  # affinities that are computed at once
IN_CACHE = 2**15  # of these, what a core's own cache holds with its exponentials
ANEW = 16  # products in a row before the next exponential: rounding stays that of an exponential

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

    quick = True

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
        for name, pair in pairs.items():
            if len(pair) != 2:
                raise ValueError(f"method.{name}={pair}: expected two numbers, [of beta, of alpha]")
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

    @torch.no_grad()
    def _search(self, z: Tensor, y: Tensor, left_out: Tensor | None = None) -> Tensor:
        """Return the number of right images for every beta and alpha (B, A).

        Args:
            z: features (N, D).
            y: labels (N,).
            left_out: for each image the place in its class's row that is left out (N,), or None.
        """
        keys = self.keys.double().transpose(0, 1).flatten(0, 1)  # (S * C, D)
        empty = (self.filled.T == 0).unsqueeze(1)  # (S, 1, C)
        counts = torch.zeros(len(self.betas), len(self.alphas), dtype=torch.long, device=z.device)
        numbers = torch.arange(len(z), device=z.device)
        for part in _parts(numbers, CHUNK, empty.numel()):
            distance = (1 - z[part].double() @ keys.T).unflatten(1, empty.shape[::2])  # (n, S, C)
            base = super().logits(z[part], self.zero_shot_weights).double()
            held = CHUNK if z.is_cuda else IN_CACHE
            for block in _parts(numbers[: len(part)], held, empty.numel()):
                images = part[block]
                absent = empty.expand(-1, len(images), -1)
                if left_out is not None:
                    absent = absent.clone()
                    absent[left_out[images], numbers[: len(images)], y[images]] = True
                caches = self._caches(distance[block].transpose(0, 1).contiguous(), absent)
                counts += alpha_search.count_hits(base[block], caches, y[images], self.alphas)
        return counts

    def _caches(self, distance: Tensor, absent: Tensor) -> Tensor:
        # sum_s exp(-beta distance) for every beta (B, n, C) of distances (S, n, C): shots lead, so
        # that what is added lies side by side.
        caches = distance.new_empty(len(self.betas), *distance.shape[1:])
        factor = torch.exp(-self.betas.diff()[:1].sum() * distance)
        for row, beta in enumerate(self.betas):
            if row % ANEW == 0:
                near = torch.exp(-beta * distance).masked_fill_(absent, 0.0)
            else:
                near *= factor
            torch.sum(near, 0, out=caches[row])
        return caches

    def _grid(self, given: str | float, scale: float, steps: int) -> Tensor:
        values = [LOWEST + i * (scale - LOWEST) / steps for i in range(steps)]
        chosen = values if isinstance(given, str) else [given]
        return torch.tensor(chosen, dtype=torch.float64, device=self.backbone.device)


def _parts(images: Tensor, held: int, each: int) -> tuple[Tensor, ...]:
    return images.split(max(1, held // max(1, each)))


def _rank_in_class(y: Tensor) -> Tensor:
    # How many earlier images have the same label (N,).
    onehot = nn.functional.one_hot(y)
    return (onehot.cumsum(0) * onehot).sum(1) - 1
