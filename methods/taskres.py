"""TaskRes: a learned residual is added to the text weight of every class.

    w_c = normalise(t_c + scale * r_c),        p(c | z) = softmax(logit_scale * z w')

Yu et al. 2023, https://arxiv.org/abs/2211.10277, equation 5. Learned: the residuals r, C * D
numbers, which start at zero, so that training starts at zero-shot CLIP.

The base is the "regular" one of the authors, the text features of the prompts; their "enhanced"
base, tuned beforehand by another method, is left out. In contrast to their code the residual is
kept and trained in float32 whatever the precision of the towers.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config.values import Between
from clip_adapt.data.task import Task
from clip_adapt.method.contract import Method


class TaskRes(Method):
    """Task residual tuning.

    Args:
        backbone: the frozen towers.
        task: the classes.
        scale: what the residuals are multiplied by (the paper's alpha).
    """

    starts_at_zero_shot = True
    quick = True

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        *,
        scale: Annotated[float, Between(0, strict=True)] = 0.5,
    ) -> None:
        super().__init__(backbone, task)
        self.scale = scale
        shape = len(task.classes), backbone.embed_dim
        self.residual = nn.Parameter(torch.zeros(shape, device=backbone.device))

    def weights(self) -> Tensor:
        """Return the shifted text features (C, D), unit length."""
        return F.normalize(self.zero_shot_weights + self.scale * self.residual, dim=1)
