"""Linear probe: L2-regularised multinomial logistic regression on image features, solved exactly.

    min over W, b   C * sum_i u_i CE(W z_i + b, y_i) + 1/2 |W - W0|^2,        logits = W z + b

Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 3.2 and appendix A.3; the search
for C is that of the CoOp authors' baseline (Zhou et al. 2022, https://arxiv.org/abs/2109.01134).
Learned: C * (D + 1) numbers, the bias unpenalised. W0 is zero, or the scaled zero-shot
weights; the weights u_i are 1, or those of balanced classes.

The objective is scikit-learn's. Divided by C * N it is minimised with L-BFGS in float64, in
coordinates in which its curvature is about 1: features centred (the bias then stands for itself)
and turned to their principal axes, every weight scaled by the curvature at the present solution,
anew after 10 and 30 steps. It stops when no entry of the gradient in these coordinates is above
1e-6, a step changes the objective by less than 1e-12, or after 1000 steps (the authors' limit).
scikit-learn's default tolerance stops far from the optimum when C is large.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Annotated, Literal

import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config.values import Between
from clip_adapt.data.task import Task
from clip_adapt.method.contract import Method
from clip_adapt.method.folds import split_folds

log = logging.getLogger(__name__)

GRID = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)
BISECTIONS = 8
TOLERANCE = 1e-6
FLAT = 1e-12
STAGES = (10, 20, 970)  # steps until the coordinates are scaled anew
HISTORY = 20


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
        splits = (
            [(z, y, *self.validation)] if self.validation is not None else list(split_folds(z, y))
        )
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
    grid wins among equals (CoOp authors' linear probe). No C is tried twice.
    """
    accuracy = functools.cache(accuracy)
    # From the smallest C up, though the largest comes first in the grid: each fit goes on from the
    # one before, and a weak penalty takes few steps only from a good start.
    scores = [accuracy(c) for c in reversed(GRID)][::-1]
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

    W - W0 lies in the span of the centred features, because at the minimum the errors p - y of a
    class add up to 0. So the problem is solved in their principal axes: at most N numbers a class
    instead of D, the same minimum.

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
        self.mean = x.mean(0)
        self.axes = _principal_axes(x - self.mean)  # (r, D)
        turned = (x - self.mean) @ self.axes.T
        self.x = torch.cat([turned, torch.ones_like(x[:, :1])], 1)  # (N, r + 1), 1 for the bias
        self.y, self.start = y, start
        self.offset = x @ start.T  # (N, C)
        self.solution = x.new_zeros(len(start), self.x.shape[1])  # (C, r + 1), bias last

    def solve(self, strength: float) -> tuple[Tensor, Tensor]:
        """Return W (C, D) and b (C,) for an inverse penalty C."""
        penalty = torch.full_like(self.solution[0], 1 / (strength * len(self.y)))
        penalty[-1] = 0.0
        for steps in STAGES:
            if self._descend(penalty, steps) < steps:
                break
        weight = self.solution[:, :-1] @ self.axes
        return self.start + weight, self.solution[:, -1] - weight @ self.mean

    def _descend(self, penalty: Tensor, steps: int) -> int:
        # Move the solution by at most so many steps; return how many were made.
        unit = self._curvature(penalty).rsqrt()
        v = (self.solution / unit).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [v],
            max_iter=steps,
            max_eval=2 * steps,
            history_size=HISTORY,
            tolerance_grad=TOLERANCE,
            tolerance_change=FLAT,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            solution = v * unit
            loss = F.cross_entropy(self._logits(solution), self.y, weight=self.class_weight)
            loss = loss + 0.5 * (penalty * solution.square()).sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
        self.solution = v.detach() * unit
        return int(optimizer.state[v]["n_iter"])

    def _curvature(self, penalty: Tensor) -> Tensor:
        # The diagonal of the objective's second derivative (C, r + 1).
        p = self._logits(self.solution).softmax(1)
        ones = torch.ones_like(p[:, 0])
        counts = ones if self.class_weight is None else self.class_weight[self.y]
        share = p * (1 - p) * (counts / counts.sum()).unsqueeze(1)
        return (share.T @ self.x.square() + penalty).clamp_min(torch.finfo(p.dtype).eps)

    def _logits(self, solution: Tensor) -> Tensor:
        return self.offset + self.x @ solution.T


def _principal_axes(x: Tensor) -> Tensor:
    # Orthonormal (r, D), spanning the rows of x (N, D). Any basis of the whole space spans them, so
    # with many rows the quick way will do, whose last axes are less exact. SciPy's is the quickest.
    if len(x) < x.shape[1]:
        return torch.linalg.svd(x, full_matrices=False).Vh
    _, vectors = scipy.linalg.eigh((x.T @ x).cpu().numpy(), driver="evd")
    return torch.from_numpy(vectors).to(x).T.contiguous()
