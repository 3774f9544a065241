"""KgCoOp: a learned context whose classes stay near what hand-written prompts say of them.

    loss = cross entropy + weight * mean over c of (1 - cos(w_c, t_c))

Yao et al. 2023, https://arxiv.org/abs/2303.13283, equation 5; t_c are the text features of the
data set's own prompts. Learned: CoOp's context, all of whose options this method has.

    python -m clip_adapt.train method=docs/examples/kgcoop.py method.n_ctx=4 dataset=eyes
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch.nn.functional as F
from clip_adapt.methods.coop import CoOp
from torch import Tensor

from clip_adapt import Backbone, Between, Task


class KgCoOp(CoOp):
    """Knowledge-guided context optimisation; ``weight`` is that of the penalty."""

    recipe: ClassVar[dict[str, Any]] = {
        "batch_size": 128,
        "warmup": 1,
        "warmup_lr": 1e-5,
        "method": {"ctx_init": "a photo of a"},
    }

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        *,
        weight: Annotated[float, Between(0)] = 8.0,
        **options: Any,
    ) -> None:
        super().__init__(backbone, task, **options)
        self.weight = weight

    def penalty(self, z: Tensor, frozen: Tensor, w: Tensor) -> Tensor:
        """Return what a distance from the hand-written prompts' features (C, D) costs."""
        return self.weight * (1 - F.cosine_similarity(w, self.zero_shot_weights)).mean()
