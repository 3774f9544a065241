"""The common space, in closed form: a linear image projection and a kernel map from text into it.

No image is used. The classifier's rows W (1000, 1280) stand for what classes look like; kernel
ridge regression learns sentence embedding -> row, on classes and on the kinds they belong to, so
that words that name no class get the row their meaning predicts (the semantic embedding of DeViSE,
Frome et al. 2013, from text to image; kernel ridge: Saunders et al. 1998). An SVD of the
predictions gives the 160 visual directions that text can speak about. 96 further directions of W
are kept for the image side alone: text is zero there, so they leave zero-shot ranking as it is and
serve probes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

ALIGNED, VISUAL = 160, 96
RBF_SHARE, RBF_WIDTH = 0.8, 0.3  # chosen by predicting the rows of held-out classes
RIDGE, CENTRING, KIND_WEIGHT = 0.3, 0.7, 0.5
POWER = 0.25  # how the singular values are divided between image and text side


@dataclass
class TextMap:
    """Sentence embeddings (C, 384) -> unit text targets (C, 160)."""

    centre: Tensor  # (384,)
    anchors: Tensor  # (A, 384) unit
    coefficients: Tensor  # (A, 160)

    def __call__(self, t: Tensor) -> Tensor:
        """Kernel regression onto the aligned directions, unit length."""
        kernel = _kernel(normalize(t - self.centre, dim=-1), self.anchors)  # (C, A)
        return normalize(kernel @ self.coefficients, dim=-1)


@dataclass
class Projection:
    """Image side of the common space: pooled features (N, 1280) -> (N, 256), and the text map."""

    weight: Tensor  # (256, 1280)
    bias: Tensor  # (256,)
    text: TextMap


def solve(tower: nn.Module, embeddings: Tensor, members: list[tuple[int, ...]]) -> Projection:
    """Fit both maps.

    Args:
        tower: EfficientNet with ``classifier`` and ``bn2``.
        embeddings: sentence embeddings (A, 384) of the concepts; the first 1000 are the classes.
        members: for each concept the classes that it covers.
    """
    mean, scale = feature_statistics(tower)
    rows = tower.classifier.weight.detach()
    rows = (rows - rows.mean(0)) * scale  # (1000, 1280)
    visual = torch.stack([rows[list(m)].mean(0) for m in members])  # (A, 1280)
    centre = CENTRING * embeddings[:1000].mean(0)
    anchors = normalize(embeddings - centre, dim=-1)
    strength = torch.tensor([1.0 if i < 1000 else KIND_WEIGHT for i in range(len(members))])
    kernel = _kernel(anchors, anchors)
    solution = torch.linalg.solve((kernel + torch.diag(RIDGE / strength)).double(), visual.double())
    predicted = kernel.double() @ solution
    _, values, directions = torch.linalg.svd(predicted, full_matrices=False)
    basis = directions[:ALIGNED]  # (160, 1280) orthonormal
    gain = (values[:ALIGNED] / values[0]) ** POWER
    aligned, extra = gain[:, None] * basis, _visual_rows(rows.double(), basis, gain)
    weight = torch.cat([aligned, extra]) / scale.double()
    coefficients = (solution @ basis.T / gain).float()
    text = TextMap(centre, anchors, coefficients)
    return Projection(weight.float(), -(weight @ mean.double()).float(), text)


def feature_statistics(tower: nn.Module, samples: int = 20000) -> tuple[Tensor, Tensor]:
    """Mean and relative deviation of pooled features, (1280,) each, from the last batch norm.

    Before the clamp a feature is N(beta, gamma^2) by construction of batch normalisation.
    """
    noise = torch.randn(samples, 1280, generator=torch.Generator().manual_seed(0))
    values = (noise * tower.bn2.weight.detach() + tower.bn2.bias.detach()).clamp(0, 6)
    deviation = values.std(0)
    return values.mean(0), deviation / deviation.mean()


def _visual_rows(rows: Tensor, basis: Tensor, gain: Tensor) -> Tensor:
    """Directions of the classifier that the aligned ones leave out, (96, 1280)."""
    rest = rows - rows @ basis.T @ basis
    _, values, directions = torch.linalg.svd(rest, full_matrices=False)
    share = (values[:VISUAL] / values[0]) ** POWER
    return gain.median() * share[:, None] * directions[:VISUAL]


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """A linear part, which keeps every two texts apart, and a Gaussian one, which is local."""
    cosine = a @ b.T
    return (1 - RBF_SHARE) * cosine + RBF_SHARE * torch.exp((cosine - 1) / RBF_WIDTH)
