"""Which prompts pass the text tower together, packed or as they are, and what follows from it.

In a causal tower a token hears only what stands before it. Hence nothing behind an end token is
computed, the tokens that all prompts begin with are computed once, and what is left of the prompts
is packed (packing.py). Any other tower runs as it is, on the columns that can matter.

Many prompts go through in chunks. Where gradients flow, a chunk keeps nothing but its features and
is computed once more on the way back (torch.utils.checkpoint): the same numbers in less memory.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from clip_adapt.backbone.attention import SeparateAttention
from clip_adapt.backbone.blocks import is_plain_block
from clip_adapt.backbone.packing import Packed, pack
from clip_adapt.backbone.prompts import PromptTokens
from clip_adapt.system.machine import measure_total_memory, send

ChunkSize = int | Literal["auto"]

TEXT_BATCH = 256  # prompts at a time when no gradient is wanted
SHARE_OF_MEMORY = 0.25


@dataclass(frozen=True)
class Need:
    """What decides how prompts go through a tower; plans for equal needs are interchangeable.

    Attributes:
        packs: the tower is one that the packed computation reproduces.
        shares: prompts may share a computed beginning.
        own_context: every prompt has vectors of its own, in its context or in a later block.
        gradients: the pass is kept for its way back.
        chunk: prompts at a time; ``auto`` takes as many as a quarter of the memory holds.
        device: where the tower is.
    """

    packs: bool
    shares: bool
    own_context: bool
    gradients: bool
    chunk: ChunkSize
    device: torch.device

    @classmethod
    def of(
        cls,
        tower: Any,
        context: Tensor | None,
        deep: Tensor | None,
        chunk: ChunkSize,
        device: torch.device,
    ) -> Need:
        """Look at a tower and the learned vectors as they are now.

        Args:
            tower: the text tower.
            context: (n_ctx, W), or (C, n_ctx, W), or None.
            deep: (blocks, n_ctx, W), or (C, blocks, n_ctx, W) where the context is each text's own
                (prompts.match_deep), or None.
            chunk: prompts at a time.
            device: where the tower is.
        """
        learns = any(p.requires_grad for p in tower.parameters())
        learns |= any(t is not None and t.requires_grad for t in (context, deep))
        return cls(
            packs=is_packable(tower),
            shares=not has_active_dropout(tower),
            own_context=context is not None and context.dim() == 3,
            gradients=learns and torch.is_grad_enabled(),
            chunk=chunk,
            device=device,
        )


@dataclass(frozen=True)
class Chunk:
    """Prompts that go through the tower together: which of them, and their tokens."""

    rows: Tensor  # (n,)
    tokens: Packed | PromptTokens


@dataclass(frozen=True)
class EncodingPlan:
    """How C prompts go through a tower, and what is needed for it."""

    need: Need
    chunks: list[Chunk]

    @functools.cached_property
    def order(self) -> Tensor:
        """Where each prompt lies among the features of all chunks (C,)."""
        return torch.cat([chunk.rows for chunk in self.chunks]).argsort()


def plan_encoding(tower: Any, prompt: PromptTokens, need: Need) -> EncodingPlan:
    """Decide how prompts, tokenised on the CPU, go through a text tower of open_clip."""
    count = len(prompt.ids)
    limit = TEXT_BATCH if not need.gradients else count
    if need.chunk != "auto":
        limit = min(limit, need.chunk)
    elif need.gradients:
        whole = _make_chunk(tower, prompt, torch.arange(count), need)
        limit = max(1, min(count, int(count * _measure_room(tower, whole, need.device))))
    if limit >= count:
        return EncodingPlan(need, [_make_chunk(tower, prompt, torch.arange(count), need)])
    # Neighbours in the order of their tokens begin with the same words, and share them.
    order = torch.from_numpy(np.lexsort(prompt.ids.T.flip(0).numpy()))
    rows = order.tensor_split(math.ceil(count / limit))
    return EncodingPlan(need, [_make_chunk(tower, prompt, some, need) for some in rows])


def is_packable(tower: nn.Module) -> bool:
    """Tell whether a text tower is one whose numbers the packed computation reproduces.

    That is open_clip's causal tower as it is built, its attention taken apart, with or without
    adapters inside the Linear layers. Other blocks, another mask, a class token, or a hook on a
    module that would not be called make it another tower.
    """
    if type(tower) is not TextTransformer or tower.cls_emb is not None or tower.output_tokens:
        return False
    transformer, mask = tower.transformer, tower.attn_mask
    blocks = list(transformer.resblocks)
    uncalled = [tower, transformer, *blocks, *(getattr(block, "attn", block) for block in blocks)]
    return (
        mask is not None
        and tower.pool_type in ("argmax", "eos")
        and transformer.batch_first
        and not transformer.grad_checkpointing
        and all(is_plain_block(block) for block in blocks)
        and not any(module._forward_hooks or module._forward_pre_hooks for module in uncalled)
        and _is_causal(mask, mask._version)
    )


def has_active_dropout(tower: nn.Module) -> bool:
    """Tell whether dropout is at work in a tower: then prompts must not share a beginning.

    Every prompt draws its own zeros; a shared token would give all of them the same.
    """
    kinds = (nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout)
    return any(m.training and m.p > 0 for m in tower.modules() if isinstance(m, kinds))


def count_columns(tower: Any, ids: Tensor) -> int:
    """Return how many columns of token ids (C, L) can change what a text tower gives."""
    if not isinstance(tower, TextTransformer) or tower.attn_mask is None:
        return ids.shape[1]
    # Only our own attention cuts the causal mask to shorter prompts.
    attentions = [getattr(block, "attn", None) for block in tower.transformer.resblocks]
    cuts_its_mask = all(type(attention) is SeparateAttention for attention in attentions)
    if not cuts_its_mask or tower.cls_emb is not None or tower.pool_type not in ("argmax", "eos"):
        return ids.shape[1]
    return int(_find_ends(tower, ids).max()) + 1


def _find_ends(tower: Any, ids: Tensor) -> Tensor:
    # "argmax" pools at the largest token id, which is the end token of CLIP's vocabulary.
    return (ids if tower.pool_type == "argmax" else (ids == tower.eos_id).int()).argmax(1)


def _make_chunk(tower: Any, prompt: PromptTokens, rows: Tensor, need: Need) -> Chunk:
    ids, slots, on = prompt.ids[rows], prompt.slots[rows], send(rows, need.device)
    if need.packs:
        ends = _find_ends(tower, ids)
        packed = pack(ids, ends, slots, share=need.shares, own_context=need.own_context)
        return Chunk(on, packed.to(need.device))
    length = count_columns(tower, ids)
    return Chunk(on, PromptTokens(send(ids[:, :length], need.device), slots[:, :length]))


def _measure_room(tower: Any, chunk: Chunk, device: torch.device) -> float:
    # The memory that may be used over what the graph of a chunk keeps. Of every token that is, in
    # numbers of the width, some 24 a block (the inputs of both norms, queries, keys, values, what
    # attention gives, and two to three times the four of the MLP). A block has 12 times the width
    # squared parameters, so it is twice the parameters over the width, whatever the tower is. Deep
    # prompts add a few tokens to each block, which the estimate has room for.
    # All memory counts, not what is free now: the same run takes the same chunks every time.
    embeddings = [m for m in tower.modules() if isinstance(m, nn.Embedding)]
    width = embeddings[0].embedding_dim
    parameters = sum(p.numel() for p in tower.parameters())
    parameters -= sum(m.weight.numel() for m in embeddings)
    kept = chunk.tokens.ids.numel() * 2 * parameters / width * embeddings[0].weight.element_size()
    return SHARE_OF_MEMORY * measure_total_memory(device) / kept


@functools.lru_cache(maxsize=8)  # comparing on a GPU would stall every step
def _is_causal(mask: Tensor, version: int) -> bool:
    expected = torch.full(mask.shape, -math.inf, dtype=mask.dtype, device=mask.device).triu(1)
    return torch.equal(mask, expected)
