"""The guard: logits of a trained method mixed with zero-shot's, by a weight from held-out labels.

    logits = (1 - w) * logits of the method + w * logits of zero-shot,      w in {0, 0.05, ..., 1}

Adaptation can end below zero-shot (CLIP-LoRA does on Food-101); with w = 1 within reach, what is
chosen is at least as accurate as zero-shot on the labels that chose it. The interpolation is that
of outputs; Wortsman et al. 2022, https://arxiv.org/abs/2109.01903, mix weights to the same end.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 20
WITHOUT_LABELS = 0.5


def choose(ours: Tensor, zero_shot: Tensor, y: Tensor) -> float:
    """Return the weight of zero-shot, 0 to 1, with which the mixture is most often right.

    Among equally accurate weights the one with the least cross entropy is taken. Without labels
    the answer is the even mixture.

    Args:
        ours: logits (N, C) of the method, on images that it was not trained on.
        zero_shot: logits (N, C) of zero-shot on the same images.
        y: labels (N,).
    """
    if not len(y):
        return WITHOUT_LABELS

    def score(weight: float) -> tuple[float, float]:
        logits = mix(ours.double(), zero_shot.double(), weight)
        hits = (logits.argmax(1) == y).double().mean()
        return float(hits), -float(F.cross_entropy(logits, y))

    return max((step / STEPS for step in range(STEPS + 1)), key=score)


def mix(ours: Tensor, zero_shot: Tensor, weight: float) -> Tensor:
    """Return (1 - weight) * ours + weight * zero_shot, logits (N, C)."""
    return torch.lerp(ours, zero_shot, weight)
