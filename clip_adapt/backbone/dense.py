"""What the blocks of an image tower give on the way: a vector per place in place of one per image.

Transformers lose their class token and registers here, and every map comes channels last, so that
(N, H, W, C) is the same thing for all towers. Values are those behind a block, before the norm that
a tower may have behind its last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clip_adapt.backbone.blocks import Block, find_blocks
from clip_adapt.backbone.compiling import run_uncompiled
from clip_adapt.backbone.image_tower import lay_out
from clip_adapt.errors import InputError


def record_maps(tower: Any, pixels: Tensor, layers: Sequence[int]) -> list[Tensor]:
    """Return the maps (N, H, W, C) behind the given blocks of an image tower, as they are asked.

    Args:
        tower: the image tower.
        pixels: (N, 3, S, S), of the tower's dtype and on its device.
        layers: numbers of blocks from 0; negative ones count from the last.

    Raises:
        InputError: when there is no such block.
    """
    blocks = find_blocks(tower)
    _require_layers(layers, len(blocks))
    wanted = [blocks[index] for index in layers]
    found: dict[nn.Module, Tensor] = {}

    def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
        found[module] = output

    handles = [block.module.register_forward_hook(record) for block in wanted]
    try:
        # A hook that is new at every call would make a compiled tower compile anew each time.
        with run_uncompiled(tower):
            tower(lay_out(tower, pixels))
    finally:
        for handle in handles:
            handle.remove()
    return [_to_map(block, found[block.module], pixels.shape[-2:]) for block in wanted]


def _require_layers(layers: Sequence[int], count: int) -> None:
    if not layers or any(not -count <= index < count for index in layers):
        raise InputError(
            f"layers={list(layers)}: the image tower has {count} blocks; expected at least one of "
            f"0 to {count - 1}, or of -{count} to -1, which count from the last"
        )


def _to_map(block: Block, output: Tensor, size: torch.Size) -> Tensor:
    if block.layout == "channels_last":
        return output
    if block.layout == "channels_first":
        return output.permute(0, 2, 3, 1)
    assert block.stride is not None, "blocks of image towers have one"
    tokens = output if block.batch_first else output.transpose(0, 1)
    rows, columns = (edge // block.stride for edge in size)
    return tokens[:, block.prefix :].unflatten(1, (rows, columns))
