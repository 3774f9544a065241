"""The residual blocks of a tower: their names, their width, and how their tokens lie.

A method that works inside a tower asks here and needs to know no architecture. It never changes
the backbone, which others share, but a twin of it, whose modules are its own:

    twin = backbone.twin()
    for block in twin.blocks("image"):
        block.module.mlp.c_proj = Adapted(block.module.mlp.c_proj)      # a layer inside a block, or
        twin.model.set_submodule(block.name, Gated(block.module))       # the whole block

What stands in a block's place is called with the block's arguments, of which the first is its
tokens, and open_clip asks the first block of a tower for ``get_weight_dtype()``. A layer that is
put inside must act on each token by itself: then the fast text tower, which lays all prompts out
as one sequence (packing.py), still computes it. With a block replaced as a whole the tower runs as
it is written, which is exact and slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import ResidualAttentionBlock, TextTransformer, VisionTransformer
from torch import nn

from clip_adapt.backbone.attention import SeparateAttention
from clip_adapt.errors import InputError

Side = Literal["image", "text"]
Layout = Literal["sequence", "grid", "channels_first", "channels_last"]

ATTRIBUTES: dict[Side, str] = {"image": "visual", "text": "text"}  # of open_clip's models


@dataclass(frozen=True)
class Block:
    """One residual block of a tower, or one stage of a convolutional tower.

    Attributes:
        name: dotted, as ``backbone.model.get_submodule`` takes it.
        module: called with its tokens or its map first; a block of a Hugging Face tower may give
            a tuple that begins with them.
        width: W, the length of a token (C, the channels of a map) that it gives.
        layout: ``sequence``: the tokens of a text (N, L, W); ``grid``: those of an image
            (N, prefix + H * W, W), row by row; ``channels_first``: a map (N, C, H, W);
            ``channels_last``: a map (N, H, W, C).
        batch_first: tokens are (N, L, W); False when they are (L, N, W).
        prefix: how many tokens stand before the grid: the class token, and registers.
        stride: pixels that one cell of the grid or the map covers along a side; None for text.
    """

    name: str
    module: nn.Module
    width: int
    layout: Layout
    batch_first: bool = True
    prefix: int = 0
    stride: int | None = None


def find_blocks(tower: Any) -> list[Block]:
    """Return the blocks of a tower from its input to its output; names are those in the tower.

    Raises:
        InputError: when the tower is of a class that is not known.
    """
    found = []
    if isinstance(tower, TextTransformer):
        found = _find_resblocks(tower.transformer, "sequence")
    elif isinstance(tower, VisionTransformer):
        stride = int(tower.patch_size[0])
        found = _find_resblocks(tower.transformer, "grid", prefix=1, stride=stride)
    elif isinstance(tower, ModifiedResNet):
        found = _find_resnet_layers(tower)
    elif isinstance(tower, HFTextEncoder):
        found = _find_encoder_layers(tower)
    elif hasattr(tower, "trunk"):
        found = _find_timm_blocks(tower.trunk)
    if not found:
        raise InputError(
            f"the blocks of a {type(getattr(tower, 'trunk', tower)).__name__} are not known: "
            "expected a transformer or ModifiedResNet of open_clip, a network of timm that lists "
            "its stages, or a text tower of transformers"
        )
    return found


def is_plain_block(block: Any) -> bool:
    """Tell whether a block is open_clip's own with its attention taken apart, batch first."""
    if type(block) is not ResidualAttentionBlock or type(block.attn) is not SeparateAttention:
        return False
    return block.attn.batch_first and not hasattr(block, "ln_1_kv")


def _find_resblocks(transformer: Any, layout: Layout, **more: Any) -> list[Block]:
    return [
        Block(
            f"transformer.resblocks.{index}",
            module,
            transformer.width,
            layout,
            batch_first=transformer.batch_first,
            **more,
        )
        for index, module in enumerate(transformer.resblocks)
    ]


def _find_resnet_layers(tower: Any) -> list[Block]:
    found = []
    for index in range(1, 5):
        # The stem halves the image twice and the first layer widens four times; each later layer
        # halves it and doubles the channels.
        times, layer = 2 ** (index + 1), getattr(tower, f"layer{index}")
        width = times * tower.conv3.out_channels
        found.append(Block(f"layer{index}", layer, width, "channels_first", stride=times))
    return found


def _find_encoder_layers(tower: Any) -> list[Block]:
    # Every architecture of transformers has a list of its own name (layer, layers, block); it is
    # the outermost one with as many modules as the configuration says.
    config = tower.transformer.config
    for name, module in tower.transformer.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers:
            return [
                Block(f"transformer.{name}.{index}", layer, config.hidden_size, "sequence")
                for index, layer in enumerate(module)
            ]
    return []


def _find_timm_blocks(trunk: Any) -> list[Block]:
    # timm's own list: the blocks of its Vision Transformers, the stages of everything else. The
    # activation at the end of a ResNet's stem, which it lists too, is not a stage.
    prefix = getattr(trunk, "num_prefix_tokens", None)
    layout: Layout = "grid" if prefix is not None else "channels_first"
    if getattr(trunk, "output_fmt", None) == "NHWC":
        layout = "channels_last"
    found = []
    for stage in getattr(trunk, "feature_info", ()):
        module = trunk.get_submodule(stage["module"])
        if next(module.children(), None) is not None:
            name, stride = f"trunk.{stage['module']}", int(stage["reduction"])
            width = int(stage["num_chs"])
            found.append(Block(name, module, width, layout, prefix=prefix or 0, stride=stride))
    return found
