"""Linear probe: L2-regularised multinomial logistic regression on image features, solved exactly.

    min over W, b   C * sum_i u_i CE(W z_i + b, y_i) + 1/2 |W - W0|^2,        logits = W z + b

Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 3.2 and appendix A.3; the search
for C is that of the CoOp authors' baseline (Zhou et al. 2022, https://arxiv.org/abs/2109.01134).
Learned: C * (D + 1) numbers, the bias unpenalised. W0 is zero, or the scaled zero-shot
weights; the weights u_i are 1, or those of balanced classes.

The objective is scikit-learn's. Divided by C * N it is minimised with L-BFGS in float64 until no
entry of its gradient is above 1e-8, a step changes it by less than 1e-11, or 1000 evaluations are
made (the authors' limit is 1000 iterations). scikit-learn's default tolerance stops far from the
optimum when C is large.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_adapt.backbone import Backbone
from clip_adapt.folds import stratified
from clip_adapt.method import Method
from clip_adapt.options import Between
from clip_adapt.task import Task

log = logging.getLogger(__name__)

GRID = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)
BISECTIONS = 8
TOLERANCE = 1e-8
FLAT = 1e-11
ITERATIONS = 1000


class LinearProbe(Method):
    """Logistic regression on frozen features.

    Args:
        backbone: the frozen towers.
        task: the classes.
        C: inverse strength of the penalty; ``auto`` searches for the best on val, or by stratified
            folds of the support set when there is no val.
        init: ``zero_shot`` starts at, and regularises towards, the scaled zero-shot weights.
        standardize: bring every feature to mean 0 and deviation 1 over the support set first.
    """

    quick = True

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        *,
        C: Literal["auto"] | Annotated[float, Between(0, strict=True)] = "auto",
        init: Literal["zero", "zero_shot"] = "zero",
        standardize: bool = False,
    ) -> None:
        super().__init__(backbone, task)
        self.C, self.init, self.standardize = C, init, standardize
        shape = len(task.classes), backbone.embed_dim
        self.register_buffer("weight", torch.zeros(shape, device=backbone.device))
        self.register_buffer("bias", torch.zeros(shape[0], device=backbone.device))

    weight: Tensor
    bias: Tensor

    def fit(self, z: Tensor, y: Tensor) -> None:
        """Solve for the weights; search for C first when it is ``auto``."""
        features = z.double()
        mean = features.mean(0) if self.standardize else torch.zeros_like(features[0])
        scale = features.std(0).clamp_min(1e-6) if self.standardize else torch.ones_like(mean)
        start = self._start() * scale  # (C, D), in standardised units

        def solver(x: Tensor, labels: Tensor) -> Callable[[float], tuple[Tensor, Tensor]]:
            x = (x.double() - mean) / scale
            return Solver(x, labels, start, self.class_weight).solve

        strength = self._search(solver, features, y) if self.C == "auto" else self.C
        weight, bias = solver(features, y)(strength)
        weight = weight / scale
        self.weight.copy_(weight)
        self.bias.copy_(bias - weight @ mean)

    def weights(self) -> Tensor:
        """Return the weights (C, D); they are not of unit length."""
        return self.weight

    def logits(self, z: Tensor, w: Tensor) -> Tensor:
        """Return z w' + b (N, C)."""
        return z @ w.T + self.bias

    def _start(self) -> Tensor:
        if self.init == "zero":
            return torch.zeros_like(self.weight).double()
        return (self.backbone.logit_scale * self.zero_shot_weights).double()

    def _search(
        self,
        solver: Callable[[Tensor, Tensor], Callable[[float], tuple[Tensor, Tensor]]],
        z: Tensor,
        y: Tensor,
    ) -> float:
        if self.validation is not None:
            splits = [(z, y, *self.validation)]
        else:
            splits = [(z[~held], y[~held], z[held], y[held]) for held in stratified(y)]
        if not splits:
            log.info("C=1: one image a class and no val leave nothing to choose C by")
            return 1.0
        parts = [(solver(zt, yt), zv.double(), yv) for zt, yt, zv, yv in splits]

        def accuracy(strength: float) -> float:
            hits = count = 0
            for solve, zv, yv in parts:
                weight, bias = solve(strength)
                hits += int(((self._shifted(zv, z) @ weight.T + bias).argmax(1) == yv).sum())
                count += len(yv)
            return hits / count

        best = search(accuracy)
        log.info("C=%.4g chosen on %s", best, "val" if self.validation is not None else "folds")
        return best

    def _shifted(self, zv: Tensor, z: Tensor) -> Tensor:
        if not self.standardize:
            return zv
        return (zv - z.mean(0)) / z.std(0).clamp_min(1e-6)


def search(accuracy: Callable[[float], float]) -> float:
    """Return C by the published search: the best of seven powers of ten, then eight bisections.

    Each bisection compares the two ends of an interval of log C, keeps the better end as the
    answer and halves the interval towards it; a tie goes to the smaller C, the first value of the
    grid wins among equals (CoOp authors' linear probe).
    """
    scores = [accuracy(c) for c in GRID]
    peak = torch.tensor(GRID[scores.index(max(scores))], dtype=torch.float64).log10().item()
    left, right, best = peak - 1, peak + 1, peak
    for _ in range(BISECTIONS):
        middle = (left + right) / 2
        if accuracy(10**left) < accuracy(10**right):
            left, best = middle, right
        else:
            right, best = middle, left
    return 10**best


class Solver:
    """The minimum of the objective for one support set; solutions for other C start from the last.

    W - W0 lies in the span of the features, so the problem is solved in their coordinates: at most
    N numbers a class instead of D, the same minimum.

    Args:
        x: features (N, D), float64.
        y: labels (N,).
        start: W0 (C, D), float64.
        class_weight: weight of each class (C,) in the sum; None is 1.
    """

    def __init__(
        self, x: Tensor, y: Tensor, start: Tensor, class_weight: Tensor | None = None
    ) -> None:
        self.class_weight = None if class_weight is None else class_weight.to(x)
        u, s, self.basis = torch.linalg.svd(x, full_matrices=False)
        self.x, self.y, self.start = u * s, y, start  # (N, r)
        self.offset = x @ start.T  # (N, C)
        self.solution = x.new_zeros(len(start), self.x.shape[1] + 1)  # (C, r + 1), bias last

    def solve(self, strength: float) -> tuple[Tensor, Tensor]:
        """Return W (C, D) and b (C,) for an inverse penalty C."""
        v = self.solution.clone().requires_grad_()
        scale = 1 / (strength * len(self.y))
        optimizer = torch.optim.LBFGS(
            [v],
            max_iter=ITERATIONS,
            history_size=20,
            tolerance_grad=TOLERANCE,
            max_eval=ITERATIONS,
            tolerance_change=FLAT,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            logits = self.offset + self.x @ v[:, :-1].T + v[:, -1]
            loss = F.cross_entropy(logits, self.y, weight=self.class_weight)
            loss = loss + 0.5 * scale * v[:, :-1].square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
        self.solution = v.detach()
        return self.start + self.solution[:, :-1] @ self.basis, self.solution[:, -1]
