"""CoOp: the words around the class name are replaced by context vectors, learned by gradient.

    t_c = [V]_1 [V]_2 ... [V]_M [class name c] .        p(c | x) = softmax(logit_scale * z text(t)')

Zhou et al. 2022, https://arxiv.org/abs/2109.01134, equations 2 to 4. Learned: n_ctx vectors of the
text tower's width (16 * 512 = 8,192 numbers on ViT-B/16), or as many for every class (csc).

As in the authors' code: vectors start at N(0, 0.02) or at the embedding of given words, and at
position=middle the first floor(n_ctx / 2) vectors stand in front of the name. In contrast to it,
the context is kept and trained in float32 whatever the precision of the towers.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from clip_adapt.backbone import words
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config.values import Between
from clip_adapt.data.task import Task
from clip_adapt.method.contract import Method
from clip_adapt.method.table import Table

INIT_STD = 0.02
NEAREST = 5  # words shown for a vector


class CoOp(Method):
    """Context optimisation.

    Args:
        backbone: the frozen towers.
        task: the classes.
        n_ctx: number of context vectors a prompt; with ``ctx_init`` the number of its tokens.
        ctx_init: words whose embeddings the context starts from; None starts at random.
        csc: learn a context of its own for every class (class-specific context).
        position: where the class name stands relative to the context.
    """

    tunes_text_tower = True
    trains_on_captions = True

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        *,
        n_ctx: Annotated[int, Between(1)] = 16,
        ctx_init: str | None = None,
        csc: bool = False,
        position: Literal["end", "middle", "front"] = "end",
    ) -> None:
        super().__init__(backbone, task)
        start = self._start(n_ctx, ctx_init)  # (n_ctx, W)
        if csc:
            start = self._start_of_each(start, ctx_init)  # (C, n_ctx, W)
        self.ctx = nn.Parameter(start.to(backbone.device))
        self.position = position
        self.works_on_other_classes = self.trains_on_captions = not csc
        self.names = [f"{name}." for name in task.classes]

    def encode_text(self, texts: list[str]) -> Tensor:
        """Return the unit features (N, D) of texts behind the context; as they are when it is csc.

        A caption is put where a class name stands, without a full stop of ours.
        """
        if self.ctx.dim() == 3:  # a class's own context says nothing of other texts
            return super().encode_text(texts)
        return self.backbone.encode_prompts(self.ctx, texts, position=self.position)

    def weights(self) -> Tensor:
        """Return the text features of the learned prompts (C, D), unit length."""
        return self.backbone.encode_prompts(self.ctx, self.names, position=self.position)

    def tables(self) -> list[Table]:
        """Return the words nearest to each context vector (the authors' table 4)."""
        note = words.describe_distances(self.backbone)
        ctx = self.ctx.detach()
        if ctx.dim() == 2:
            rows = [
                [str(i), ", ".join(f"{w} {d:.3f}" for w, d in near)]
                for i, near in enumerate(
                    words.find_nearest_words(self.backbone, ctx, NEAREST), start=1
                )
            ]
            return [Table("Nearest words of the context", note, ["vector", "words"], rows)]
        flat = words.find_nearest_words(self.backbone, ctx.flatten(0, 1), 1)
        cells = [" ".join(f"{w} {d:.3f}" for w, d in near) for near in flat]
        n_ctx = ctx.shape[1]
        rows = [
            [name, *cells[c * n_ctx : (c + 1) * n_ctx]] for c, name in enumerate(self.task.classes)
        ]
        columns = ["class", *map(str, range(1, n_ctx + 1))]
        return [Table("Nearest words of each class's context", note, columns, rows)]

    def _start(self, n_ctx: int, ctx_init: str | None) -> Tensor:
        if ctx_init is not None:
            return self.backbone.embed_words(ctx_init.replace("_", " "))
        return self._random(n_ctx, self.backbone.token_width)

    def _start_of_each(self, start: Tensor, ctx_init: str | None) -> Tensor:
        shape = (len(self.task.classes), *start.shape)
        return start.repeat(shape[0], 1, 1) if ctx_init is not None else self._random(*shape)

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator) * INIT_STD
