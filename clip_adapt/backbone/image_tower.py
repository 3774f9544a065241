"""The image tower without waste: the last block of a transformer is computed for its class token.

Nothing but the class token leaves a Vision Transformer that pools by it, so in its last block the
other tokens are needed as keys and values only: the same numbers up to rounding, sooner. That is
for training: the features of a frozen tower are kept on disk, and with the few rows of the short
block their last bit would depend on an image's place in the batch. Any other tower runs as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from clip_adapt.backbone.blocks import is_plain_block
from clip_adapt.backbone.compiling import compile_function, is_compiled


def encode(tower: Any, pixels: Tensor) -> Tensor:
    """Return what an image tower gives for pixels (N, 3, S, S): features (N, D)."""
    pixels = lay_out(tower, pixels)
    if not _is_learning(tower) or not pools_by_class_token(tower):
        return tower(pixels)
    x = tower._embeds(pixels)  # (N, L, W), the class token first
    # A block at a time: all blocks are alike, so one compilation serves them all.
    *blocks, last = tower.transformer.resblocks
    run = compile_function(_run_block) if is_compiled(tower) else _run_block
    for block in blocks:
        x = run(block, x)
    tokens = last.ln_1(x)
    attended, _ = last.attn(tokens[:, :1], tokens, tokens, need_weights=False)
    x = x[:, :1] + last.ls_1(attended)
    x = x + last.ls_2(last.mlp(last.ln_2(x)))
    pooled = tower.ln_post(x[:, 0])  # (N, W)
    return pooled if tower.proj is None else pooled @ tower.proj


def lay_out(tower: nn.Module, pixels: Tensor) -> Tensor:
    """Return pixels (N, 3, S, S) in the order in memory that suits a tower.

    Channels last is faster for convolutions; but the way back through some of them (FastViT's)
    crashes in it on a CPU (torch 2.15).
    """
    # A transformer has one convolution, which cuts the patches.
    convolutional = sum(isinstance(m, nn.Conv2d) for m in tower.modules()) > 1
    last = convolutional and not _is_learning(tower)
    return pixels.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _is_learning(tower: nn.Module) -> bool:
    return torch.is_grad_enabled() and any(p.requires_grad for p in tower.parameters())


def _run_block(block: Any, x: Tensor) -> Tensor:
    return block(x)


def pools_by_class_token(tower: nn.Module) -> bool:
    """Tell whether a tower is open_clip's ViT as it is built, with its attention taken apart.

    Other blocks or pooling, checkpointing, or a hook on a module that would not be called make it
    another tower.
    """
    if type(tower) is not VisionTransformer or tower.attn_pool is not None:
        return False
    transformer = tower.transformer
    last = transformer.resblocks[-1]
    return (
        tower.pool_type == "tok"
        and not tower.output_tokens
        and transformer.batch_first
        and not transformer.grad_checkpointing
        and all(is_plain_block(block) for block in transformer.resblocks)
        and not any(m._forward_hooks or m._forward_pre_hooks for m in (tower, transformer, last))
    )
