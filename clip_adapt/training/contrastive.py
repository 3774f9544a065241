"""The contrastive objective: an image belongs to its caption, and to no other of the batch.

    softmax   L = 1/2 [ CE(s Z T', diagonal) + CE(s T Z', diagonal) ]           Z, T (N, D) unit
    sigmoid   L = -1/N sum_ij log sigmoid(y_ij (s z_i t_j' + b))       y_ij = 1 if i = j else -1

The first is CLIP's: Radford et al. 2021, https://arxiv.org/abs/2103.00020, figure 3. The second is
for backbones whose logits have a bias: SigLIP, Zhai et al. 2023, https://arxiv.org/abs/2303.15343,
algorithm 1. Both are those of open_clip's ClipLoss and SigLipLoss. The scale s and the bias b are
the backbone's and stay as they are.

Captions repeat: "kiss" may belong to two images of a batch. Such pairs are no negatives; with a
mask of them they are left out of the sums, which open_clip does not do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def compute_loss(
    z: Tensor, t: Tensor, scale: Tensor, bias: Tensor | None = None, same: Tensor | None = None
) -> Tensor:
    """Return the loss of a batch of pairs: the sigmoid loss where there is a bias.

    Args:
        z: unit image features (N, D).
        t: unit features of their captions (N, D).
        scale: factor on cosine similarities.
        bias: added to scaled similarities, or None.
        same: (N, N), True where a caption (column) is right for an image (row); the diagonal is,
            whatever it says. None when only the diagonal is.
    """
    logits = scale * z @ t.T  # (N, N)
    others = None if same is None else same & ~_make_diagonal(logits)
    if bias is not None:
        return _compute_sigmoid(logits + bias, others)
    if others is not None:
        logits = logits.masked_fill(others, float("-inf"))
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def count_hits(z: Tensor, t: Tensor) -> Tensor:
    """Return how many images are nearest to their own caption."""
    right = (z @ t.T).argmax(1) == torch.arange(len(z), device=z.device)
    return right.sum().float()


def _compute_sigmoid(logits: Tensor, others: Tensor | None) -> Tensor:
    signs = 2.0 * _make_diagonal(logits) - 1
    terms = -F.logsigmoid(signs * logits)
    if others is not None:
        terms = terms.masked_fill(others, 0.0)
    return terms.sum() / len(logits)


def _make_diagonal(logits: Tensor) -> Tensor:
    return torch.eye(len(logits), dtype=torch.bool, device=logits.device)
