"""The text tower without waste: the same numbers from a fraction of the tokens.

What goes through together, and how, is planned beforehand (encoding_plan.py). Packed prompts are
one sequence (packing.py): linear layers see every token once, attention sees the prompts, and in
the last block only the end tokens go on. Any other tower is called as it is.

Learned context enters in place of embeddings. Deep prompts replace the states of the same tokens
at the input of later blocks: block i sees vectors of its own where the context stands, as in IVLP
and MaPLe (Khattak et al. 2023, https://arxiv.org/abs/2210.03117, section 3.2).
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clip_adapt.backbone.blocks import find_blocks
from clip_adapt.backbone.compiling import compile_function, is_compiled, run_uncompiled
from clip_adapt.backbone.encoding_plan import Chunk, EncodingPlan
from clip_adapt.backbone.packing import Packed
from clip_adapt.backbone.prompts import PromptTokens, replace_embeddings, replace_states
from clip_adapt.errors import InputError


def encode(
    tower: Any,
    plan: EncodingPlan,
    embedding: nn.Module,
    context: Tensor | None = None,
    deep: Tensor | None = None,
) -> Tensor:
    """Return what a text tower gives for planned prompts (C, D); gradients flow.

    Args:
        tower: the tower that the plan was made for.
        plan: the prompts.
        embedding: the module in which the tower looks up its tokens.
        context: (n_ctx, W), or (C, n_ctx, W), for the slots of the prompts.
        deep: (blocks, n_ctx, W), or (C, blocks, n_ctx, W) where the context is each prompt's own:
            what stands in the slots at the input of the second block, the third, and so on.

    Raises:
        InputError: for deep prompts in a tower that checkpoints its blocks by itself.
    """

    def pass_tower(chunk: Chunk, context: Tensor | None, deep: Tensor | None) -> Tensor:
        if isinstance(chunk.tokens, Packed):
            return _pass_packed(tower, chunk.tokens, context, deep)
        return _pass_whole(tower, chunk.tokens, embedding, context, deep)

    def take_rows(vectors: Tensor | None, chunk: Chunk) -> Tensor | None:
        return vectors[chunk.rows] if vectors is not None and plan.need.own_context else vectors

    if deep is not None and not plan.need.packs and plan.need.gradients:
        _require_no_checkpoints(tower)
    if len(plan.chunks) == 1:
        return pass_tower(plan.chunks[0], context, deep)
    run = pass_tower
    if plan.need.gradients:
        # Without dropout nothing is drawn, and reading a GPU generator's state would stall it.
        run = functools.partial(
            checkpoint, pass_tower, use_reentrant=False, preserve_rng_state=not plan.need.shares
        )
    parts = [run(c, take_rows(context, c), take_rows(deep, c)) for c in plan.chunks]
    return torch.cat(parts)[plan.order]


def _pass_whole(
    tower: Any,
    prompt: PromptTokens,
    embedding: nn.Module,
    context: Tensor | None,
    deep: Tensor | None,
) -> Tensor:
    with contextlib.ExitStack() as stack:
        if context is not None:
            stack.enter_context(replace_embeddings(embedding, prompt, context))
        if deep is not None:
            # A hook that is new at every call would make a compiled tower compile anew each time.
            stack.enter_context(run_uncompiled(tower))
            stack.enter_context(replace_states(find_blocks(tower)[1:], prompt, deep))
        return tower(prompt.ids)


def _require_no_checkpoints(tower: Any) -> None:
    # What the tower computes again on the way back would be computed without the hooks that put
    # deep prompts in: wrong gradients, without a word.
    if any(getattr(module, "grad_checkpointing", False) for module in tower.modules()):
        raise InputError(
            "deep prompts cannot pass a text tower that checkpoints its own blocks "
            "(method.checkpointing=true): set text_chunk=N in its place, which saves memory too"
        )


def _pass_packed(tower: Any, packed: Packed, context: Tensor | None, deep: Tensor | None) -> Tensor:
    x = tower.token_embedding(packed.ids)  # (T, W)
    x = _fill_slots(x, packed, context)
    dtype = tower.transformer.get_cast_dtype()
    # A token keeps the position it has in its own prompt, wherever it lies in the sequence.
    x = x.to(dtype) + tower.positional_embedding[packed.positions].to(dtype)
    *blocks, last = tower.transformer.resblocks
    # What each block finds in the slots: the first what the embedding gave, so nothing new.
    vectors = [None, *(deep.unbind(-3) if deep is not None else ())]
    vectors += [None] * (len(blocks) + 1 - len(vectors))
    # A block at a time: all blocks are alike, so one compilation serves them all.
    run = compile_function(_run_block) if is_compiled(tower.transformer) else _run_block
    for block, own in zip(blocks, vectors[:-1], strict=True):
        x = run(block, _fill_slots(x, packed, own), packed)
    x = _fill_slots(x, packed, vectors[-1])
    # Nothing but the end tokens leaves the tower: the others are only keys and values here.
    attended = _attend_at_ends(last.attn, last.ln_1(x), packed)
    pooled = tower.ln_final(_finish_block(last, x[packed.ends], attended))  # (C, W)
    projection = tower.text_projection
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, nn.Module) else pooled @ projection


# Out of place: what the embedding or a block gave may be needed as it was for the way back.
def _fill_slots(x: Tensor, packed: Packed, vectors: Tensor | None) -> Tensor:
    if vectors is None:
        return x
    return x.index_copy(0, packed.slots, packed.spread_context(vectors).to(x.dtype))


def _run_block(block: Any, x: Tensor, packed: Packed) -> Tensor:
    return _finish_block(block, x, _attend(block.attn, block.ln_1(x), packed))


def _finish_block(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    x = x + block.ls_1(attended)
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def _attend(attn: Any, x: Tensor, packed: Packed) -> Tensor:
    q, k, v = attn.q_proj(x), attn.k_proj(x), attn.v_proj(x)  # (T, W)
    own = packed.split_rows(q[packed.prefix :], attn.heads)
    keys, values = packed.put_behind_prefix(k, attn.heads), packed.put_behind_prefix(v, attn.heads)
    out = _join_heads(F.scaled_dot_product_attention(own, keys, values, attn_mask=packed.mask))
    if packed.prefix:
        # The shared tokens hear one another only, and stand in front of the sequence.
        q0, k0, v0 = (packed.take_prefix(tokens, attn.heads) for tokens in (q, k, v))
        shared = F.scaled_dot_product_attention(q0, k0, v0, is_causal=True)
        out = torch.cat([_join_heads(shared), out])
    return attn.out_proj(out)


def _attend_at_ends(attn: Any, x: Tensor, packed: Packed) -> Tensor:
    q = packed.split_rows(attn.q_proj(x[packed.queries]), attn.heads)
    keys = packed.put_behind_prefix(attn.k_proj(x), attn.heads)
    values = packed.put_behind_prefix(attn.v_proj(x), attn.heads)
    out = F.scaled_dot_product_attention(q, keys, values, attn_mask=packed.query_mask)
    return attn.out_proj(_join_heads(out)[packed.chosen])  # (C, W)


def _join_heads(by_heads: Tensor) -> Tensor:
    return by_heads.transpose(1, 2).flatten(2).flatten(0, 1)  # (R, heads, n, d) -> (R * n, W)
