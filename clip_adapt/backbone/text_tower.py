"""The text tower without waste: the same numbers from a fraction of the tokens.

In a causal tower a token hears only what stands before it. Hence nothing behind an end token is
computed, the tokens that all prompts begin with are computed once, what is left of the prompts is
packed (packing.py), and in the last block only the end tokens go on. Any other tower runs as it is.

Many prompts go through in parts. Where gradients flow, a part keeps nothing but its features and
is computed once more on the way back (torch.utils.checkpoint): the same numbers in less memory.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, TextTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clip_adapt.backbone.attention import SeparateAttention
from clip_adapt.backbone.compiling import compiled, is_compiled
from clip_adapt.backbone.packing import Packed, pack
from clip_adapt.backbone.prompts import PromptTokens, replaced_embeddings
from clip_adapt.system.machine import send, total_memory

Chunk = int | Literal["auto"]

TEXT_BATCH = 256  # prompts at a time when no gradient is wanted
SHARE_OF_MEMORY = 0.25


@dataclass(frozen=True)
class Need:
    """What decides how prompts go through a tower; plans for equal needs are interchangeable.

    Attributes:
        packs: the tower is one that the packed computation reproduces.
        shares: prompts may share a computed beginning.
        own_context: every prompt has context vectors of its own.
        gradients: the pass is kept for its way back.
        chunk: prompts at a time; ``auto`` takes as many as a quarter of the memory holds.
        device: where the tower is.
    """

    packs: bool
    shares: bool
    own_context: bool
    gradients: bool
    chunk: Chunk
    device: torch.device

    @classmethod
    def of(cls, tower: Any, context: Tensor | None, chunk: Chunk, device: torch.device) -> Need:
        """Look at a tower and its context, (n_ctx, W) or (C, n_ctx, W) or None, as they are now."""
        learns = any(p.requires_grad for p in tower.parameters())
        learns |= context is not None and context.requires_grad
        return cls(
            packs=is_packable(tower),
            shares=not drops(tower),
            own_context=context is not None and context.dim() == 3,
            gradients=learns and torch.is_grad_enabled(),
            chunk=chunk,
            device=device,
        )


@dataclass(frozen=True)
class Part:
    """Prompts that go through the tower together: which of them, and their tokens."""

    rows: Tensor  # (n,)
    tokens: Packed | PromptTokens


@dataclass(frozen=True)
class Plan:
    """How C prompts go through a tower, and what is needed for it."""

    need: Need
    parts: list[Part]

    @functools.cached_property
    def order(self) -> Tensor:
        """Where each prompt lies among the features of all parts (C,)."""
        return torch.cat([part.rows for part in self.parts]).argsort()


def plan(tower: Any, prompt: PromptTokens, need: Need) -> Plan:
    """Decide how prompts, tokenised on the CPU, go through a text tower of open_clip."""
    count = len(prompt.ids)
    limit = TEXT_BATCH if not need.gradients else count
    if need.chunk != "auto":
        limit = min(limit, need.chunk)
    elif need.gradients:
        whole = _part(tower, prompt, torch.arange(count), need)
        limit = max(1, min(count, int(count * _room(tower, whole, need.device))))
    if limit >= count:
        return Plan(need, [_part(tower, prompt, torch.arange(count), need)])
    # Neighbours in the order of their tokens begin with the same words, and share them.
    order = torch.from_numpy(np.lexsort(prompt.ids.T.flip(0).numpy()))
    chunks = order.tensor_split(math.ceil(count / limit))
    return Plan(need, [_part(tower, prompt, rows, need) for rows in chunks])


def encode(tower: Any, plan: Plan, embedding: nn.Module, context: Tensor | None = None) -> Tensor:
    """Return what a text tower gives for planned prompts (C, D); gradients flow.

    Args:
        tower: the tower that the plan was made for.
        plan: the prompts.
        embedding: the module in which the tower looks up its tokens.
        context: (n_ctx, W), or (C, n_ctx, W), for the slots of the prompts.
    """

    def through(part: Part, vectors: Tensor | None) -> Tensor:
        if isinstance(part.tokens, Packed):
            return _packed(tower, part.tokens, vectors)
        if vectors is None:
            return tower(part.tokens.ids)
        with replaced_embeddings(embedding, part.tokens, vectors):
            return tower(part.tokens.ids)

    def vectors_of(part: Part) -> Tensor | None:
        return context[part.rows] if context is not None and plan.need.own_context else context

    if len(plan.parts) == 1:
        return through(plan.parts[0], context)
    if not plan.need.gradients:
        return torch.cat([through(part, vectors_of(part)) for part in plan.parts])[plan.order]
    # Without dropout nothing is drawn, and reading the state of a GPU's generator would stall it.
    again = functools.partial(
        checkpoint, through, use_reentrant=False, preserve_rng_state=not plan.need.shares
    )
    return torch.cat([again(part, vectors_of(part)) for part in plan.parts])[plan.order]


def is_packable(tower: nn.Module) -> bool:
    """Tell whether a text tower is one whose numbers the packed computation reproduces.

    That is open_clip's causal tower as it is built, its attention taken apart, with or without
    adapters inside the Linear layers. Other blocks, another mask, a token that is no word, or a
    hook on a module that would not be called make it another tower.
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


def drops(tower: nn.Module) -> bool:
    """Tell whether dropout is at work in a tower: then prompts must not share a beginning.

    Every prompt draws its own zeros; a shared token would give all of them the same.
    """
    kinds = (nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout)
    return any(m.training and m.p > 0 for m in tower.modules() if isinstance(m, kinds))


def needed(tower: Any, ids: Tensor) -> int:
    """Return how many columns of token ids (C, L) can change what a text tower gives."""
    if not isinstance(tower, TextTransformer) or tower.attn_mask is None:
        return ids.shape[1]
    cuts_its_mask = all(type(b.attn) is SeparateAttention for b in tower.transformer.resblocks)
    if not cuts_its_mask or tower.cls_emb is not None or tower.pool_type not in ("argmax", "eos"):
        return ids.shape[1]
    return int(_ends(tower, ids).max()) + 1


def _ends(tower: Any, ids: Tensor) -> Tensor:
    return (ids if tower.pool_type == "argmax" else (ids == tower.eos_id).int()).argmax(1)


def _part(tower: Any, prompt: PromptTokens, rows: Tensor, need: Need) -> Part:
    ids, slots, on = prompt.ids[rows], prompt.slots[rows], send(rows, need.device)
    if need.packs:
        ends = _ends(tower, ids)
        packed = pack(ids, ends, slots, share=need.shares, own_context=need.own_context)
        return Part(on, packed.to(need.device))
    length = needed(tower, ids)
    return Part(on, PromptTokens(send(ids[:, :length], need.device), slots[:, :length]))


def _room(tower: Any, part: Part, device: torch.device) -> float:
    # The memory that may be used over what the graph of a part keeps. Of every token that is, in
    # numbers of the width, some 24 a block (the inputs of both norms, queries, keys, values, what
    # attention gives, and two to three times the four of the MLP). A block has 12 times the width
    # squared parameters, so it is twice the parameters over the width, whatever the tower is.
    # All memory counts, not what is free now: the same run takes the same parts every time.
    embeddings = [m for m in tower.modules() if isinstance(m, nn.Embedding)]
    width = embeddings[0].embedding_dim
    parameters = sum(p.numel() for p in tower.parameters())
    parameters -= sum(m.weight.numel() for m in embeddings)
    kept = part.tokens.ids.numel() * 2 * parameters / width * embeddings[0].weight.element_size()
    return SHARE_OF_MEMORY * total_memory(device) / kept


def _packed(tower: Any, packed: Packed, context: Tensor | None) -> Tensor:
    x = tower.token_embedding(packed.ids)  # (T, W)
    if context is not None:
        x = x.index_copy(0, packed.slots, packed.vectors(context).to(x.dtype))
    dtype = tower.transformer.get_cast_dtype()
    x = x.to(dtype) + tower.positional_embedding[packed.positions].to(dtype)
    *blocks, last = tower.transformer.resblocks
    # A block at a time: all blocks are alike, so one compilation serves them all.
    through = compiled(_through) if is_compiled(tower.transformer) else _through
    for block in blocks:
        x = through(block, x, packed)
    attended = _attend_at_ends(last.attn, last.ln_1(x), packed)
    pooled = tower.ln_final(_rest(last, x[packed.ends], attended))  # (C, W)
    projection = tower.text_projection
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, nn.Module) else pooled @ projection


def _through(block: Any, x: Tensor, packed: Packed) -> Tensor:
    return _rest(block, x, _attend(block.attn, block.ln_1(x), packed))


def _rest(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    x = x + block.ls_1(attended)
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def _attend(attn: Any, x: Tensor, packed: Packed) -> Tensor:
    q, k, v = attn.q_proj(x), attn.k_proj(x), attn.v_proj(x)  # (T, W)
    own = packed.rows(q[packed.prefix :], attn.heads)
    keys, values = packed.behind_prefix(k, attn.heads), packed.behind_prefix(v, attn.heads)
    out = _flat(F.scaled_dot_product_attention(own, keys, values, attn_mask=packed.mask))
    if packed.prefix:
        q0, k0, v0 = (packed.shared(tokens, attn.heads) for tokens in (q, k, v))
        out = torch.cat([_flat(F.scaled_dot_product_attention(q0, k0, v0, is_causal=True)), out])
    return attn.out_proj(out)


def _attend_at_ends(attn: Any, x: Tensor, packed: Packed) -> Tensor:
    q = packed.rows(attn.q_proj(x[packed.queries]), attn.heads)
    keys = packed.behind_prefix(attn.k_proj(x), attn.heads)
    values = packed.behind_prefix(attn.v_proj(x), attn.heads)
    out = F.scaled_dot_product_attention(q, keys, values, attn_mask=packed.query_mask)
    return attn.out_proj(_flat(out)[packed.chosen])  # (C, W)


def _flat(by_heads: Tensor) -> Tensor:
    return by_heads.transpose(1, 2).flatten(2).flatten(0, 1)  # (R, heads, n, d) -> (R * n, W)


def is_plain_block(block: Any) -> bool:
    """Tell whether a block is open_clip's own with its attention taken apart, batch first."""
    if type(block) is not ResidualAttentionBlock or type(block.attn) is not SeparateAttention:
        return False
    return block.attn.batch_first and not hasattr(block, "ln_1_kv")


@functools.lru_cache(maxsize=8)  # comparing on a GPU would stall every step
def _is_causal(mask: Tensor, version: int) -> bool:
    expected = torch.full(mask.shape, -math.inf, dtype=mask.dtype, device=mask.device).triu(1)
    return torch.equal(mask, expected)
