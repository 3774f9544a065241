"""GDA: classes as Gaussians of one covariance, estimated in closed form, added to zero-shot CLIP.

    W_c = M mu_c,    b_c = log(1/C) - mu_c' M mu_c / 2,    M = D * inverse((n-1) S + trace(S) I)
    logits = logit_scale * z w' + alpha * (z W' + b)

Wang et al. 2024, https://arxiv.org/abs/2402.04087, equations 4 to 7. mu are the class means, S is
the covariance of the images around the mean of their class. Nothing is trained: W, b and alpha,
C * (D + 1) + 1 numbers, are solved for.

As in the authors' code every class has the prior 1/C, however many images it has: a support set
is drawn, and its proportions say nothing about the images to come. alpha is the first best of ten
to the power -4 to 2 on val. In contrast to it the solution is by Cholesky in float64, which equals
their pseudo-inverse because the matrix is positive definite; several views of an image are
averaged, not counted as images; and when no class has two images, so that S is zero and says
nothing, the covariance around the common mean stands in for it.
"""

from __future__ import annotations

import logging
import math
from typing import Annotated, Literal

import torch
from torch import Tensor

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config.values import Between
from clip_adapt.data.task import Task
from clip_adapt.method import alpha_search
from clip_adapt.method.contract import Method
from clip_adapt.method.folds import split_folds

log = logging.getLogger(__name__)

GRID = tuple(10.0**power for power in range(-4, 3))


class GDA(Method):
    """Gaussian discriminant analysis beside zero-shot.

    Args:
        backbone: the frozen towers.
        task: the classes.
        alpha: weight of the Gaussian classifier; ``auto`` takes the best of seven powers of ten on
            val, or by stratified folds of the support set when there is no val.
    """

    quick = True

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        *,
        alpha: Literal["auto"] | Annotated[float, Between(0)] = "auto",
    ) -> None:
        super().__init__(backbone, task)
        self.choice = alpha
        shape, device = (len(task.classes), backbone.embed_dim), backbone.device
        self.register_buffer("weight", torch.zeros(shape, device=device))
        self.register_buffer("bias", torch.zeros(shape[0], device=device))
        self.register_buffer("alpha", torch.zeros((), device=device))

    weight: Tensor
    bias: Tensor
    alpha: Tensor

    def fit(self, z: Tensor, y: Tensor) -> None:
        """Solve for the Gaussian classifier; choose alpha first when it is ``auto``."""
        if len(z) == len(y.unique()):
            log.info("one image a class: the covariance is that around the common mean")
        self.alpha.fill_(self._best_alpha(z, y) if self.choice == "auto" else self.choice)
        weight, bias = gaussian_classifier(z, y, len(self.task.classes))
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    def weights(self) -> Tensor:
        """Return logit_scale * w + alpha * W (C, D); not of unit length."""
        return self.backbone.logit_scale * self.zero_shot_weights + self.alpha * self.weight

    def logits(self, z: Tensor, w: Tensor) -> Tensor:
        """Return the logits (N, C) of image features (N, D) for ``weights()`` (C, D)."""
        logits = z @ w.T + self.alpha * self.bias
        bias = self.backbone.logit_bias
        return logits if bias is None else logits + bias

    def _best_alpha(self, z: Tensor, y: Tensor) -> float:
        splits = (
            [(z, y, *self.validation)] if self.validation is not None else list(split_folds(z, y))
        )
        if not splits:
            log.info("alpha=1: one image a class and no val leave nothing to choose alpha by")
            return 1.0
        grid = torch.tensor(GRID, dtype=torch.float64, device=z.device)
        counts = torch.stack([self._hits(grid, *split) for split in splits]).sum(0)
        best = GRID[int(counts.argmax())]
        log.info("alpha=%g chosen on %s", best, "val" if self.validation is not None else "folds")
        return best

    def _hits(self, grid: Tensor, z: Tensor, y: Tensor, held: Tensor, labels: Tensor) -> Tensor:
        weight, bias = gaussian_classifier(z, y, len(self.task.classes))
        zero_shot = super().logits(held, self.zero_shot_weights).double()
        return alpha_search.count_hits(zero_shot, held.double() @ weight.T + bias, labels, grid)


def gaussian_classifier(z: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return W (C, D) and b (C,), float64, of Gaussians with a shared shrunk covariance.

    Args:
        z: features (N, D).
        y: labels (N,); the mean of a class without images is the mean of the others.
        classes: C.
    """
    z = z.double()
    means = _means(z, y, classes)
    centred = z - means[y]  # (N, D)
    if len(z) == len(y.unique()):
        centred = z - means.mean(0)
    scatter = centred.T @ centred  # (n - 1) S
    ridge = scatter.trace() / max(1, len(z) - 1)
    if not ridge:  # a single image, or equal ones: nothing tells the classes apart
        return torch.zeros_like(means), means.new_full((classes,), -math.log(classes))
    dim = z.shape[1]
    factor = torch.linalg.cholesky(scatter + ridge * torch.eye(dim, dtype=z.dtype, device=z.device))
    weight = dim * torch.cholesky_solve(means.T, factor).T
    return weight, -math.log(classes) - 0.5 * (weight * means).sum(1)


def _means(z: Tensor, y: Tensor, classes: int) -> Tensor:
    sums = z.new_zeros(classes, z.shape[1]).index_add_(0, y, z)
    counts = y.bincount(minlength=classes).unsqueeze(1)
    means = sums / counts.clamp_min(1)
    return torch.where(counts > 0, means, means[counts[:, 0] > 0].mean(0))
