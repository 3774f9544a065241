"""Blocks of every family of towers, what a twin may do with them, and the maps they give."""

from __future__ import annotations

import copy

import families
import pytest
import torch
from torch import nn

from clip_adapt.backbone import dense, encoding_plan, tunable_layers
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.backbone.blocks import find_blocks
from clip_adapt.errors import InputError

TEXTS = ["a photo of a cat.", "an eye with cataract."]
# Of each image tower: the blocks' names, widths, layout, tokens before the grid, pixels per cell.
IMAGE = {
    "vit": ("transformer.resblocks.{}", [32, 32], "grid", 1, [16, 16]),
    "own-attention": ("transformer.resblocks.{}", [32, 32], "grid", 1, [16, 16]),
    "coca": ("transformer.resblocks.{}", [32, 32], "grid", 1, [16, 16]),
    "resnet": ("layer{}", [32, 64, 128, 256], "channels_first", 0, [4, 8, 16, 32]),
    "siglip": ("trunk.blocks.{}", [32, 32], "grid", 0, [16, 16]),
    "timm-vit": ("trunk.blocks.{}", [64] * 6, "grid", 1, [16] * 6),
    "pe-core": ("trunk.blocks.{}", [32, 32], "grid", 1, [16, 16]),
    "convnext": ("trunk.stages.{}", [24, 32, 48, 64], "channels_first", 0, [4, 8, 16, 32]),
    "efficientnet": (
        "trunk.blocks.{}",
        [16, 24, 32, 48, 64],
        "channels_first",
        0,
        [2, 4, 8, 16, 32],
    ),
    "mobileclip": ("trunk.stages.{}", [8, 16, 32, 32], "channels_first", 0, [4, 8, 16, 32]),
    "bert": ("trunk.blocks.{}", [64] * 6, "grid", 1, [16] * 6),
    "roberta": ("trunk.blocks.{}", [64] * 6, "grid", 1, [16] * 6),
}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """A function that gives a family's backbone in float64."""
    folder, known = tmp_path_factory.mktemp("families"), {}

    def get(family):
        if family not in known:
            card = families.write(family, folder)
            known[family] = Backbone.from_card(card, device="cpu").double()
        return known[family]

    return get


@pytest.fixture(params=families.FAMILIES)
def family(request):
    return request.param


def draw_pixels(backbone, count=2):
    size = backbone.image_size
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, size, size, generator=generator).double()


def test_blocks_of_the_image_tower(load, family):
    name, widths, layout, prefix, strides = IMAGE[family]
    blocks = load(family).blocks("image")
    first = 1 if family == "resnet" else 0
    numbers = range(first, first + len(widths))
    assert [b.name for b in blocks] == [f"visual.{name.format(i)}" for i in numbers]
    assert [b.width for b in blocks] == widths and [b.stride for b in blocks] == strides
    assert {b.layout for b in blocks} == {layout} and {b.prefix for b in blocks} == {prefix}
    assert all(b.batch_first for b in blocks)


def test_blocks_of_the_text_tower(load, family):
    backbone = load(family)
    layers = {"bert": "encoder.layer", "roberta": "encoder.layer"}.get(family, "resblocks")
    blocks = backbone.blocks("text")
    assert [b.name for b in blocks] == [f"text.transformer.{layers}.{i}" for i in (0, 1)]
    assert [b.width for b in blocks] == [backbone.token_width] * 2
    assert {(b.layout, b.batch_first, b.prefix, b.stride) for b in blocks} == {
        ("sequence", True, 0, None)
    }


@pytest.mark.parametrize("side", ["image", "text"])
def test_blocks_run_one_after_the_other_in_their_layout(load, family, side):
    backbone = load(family)
    blocks, seen = backbone.blocks(side), []
    handles = [
        block.module.register_forward_hook(
            lambda module, inputs, output, at=block: seen.append((at, inputs[0], output))
        )
        for block in blocks
    ]
    if side == "image":
        backbone.model.visual(draw_pixels(backbone))
    else:
        backbone.model.text(backbone.tokenizer(TEXTS, backbone.context_length))
    for handle in handles:
        handle.remove()
    assert [block.name for block, _, _ in seen] == [block.name for block in blocks]
    for block, taken, given in seen:
        assert backbone.model.get_submodule(block.name) is block.module
        given = given[0] if isinstance(given, tuple) else given
        if block.layout == "channels_first":
            cells = backbone.image_size // block.stride
            assert given.shape == (2, block.width, cells, cells)
        elif block.layout == "grid":
            cells = (backbone.image_size // block.stride) ** 2
            assert given.shape == taken.shape == (2, block.prefix + cells, block.width)
        else:
            assert given.shape == taken.shape and given.shape[::2] == (2, block.width)
    # What one gives the next one takes, where nothing stands between them.
    if blocks[0].layout in ("grid", "sequence"):
        outputs = [g[0] if isinstance(g, tuple) else g for _, _, g in seen]
        assert all(torch.equal(g, t) for g, (_, t, _) in zip(outputs, seen[1:], strict=False))


def test_maps_whose_channels_come_last():
    from timm.models.swin_transformer import SwinTransformer

    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = SwinTransformer(
                img_size=64, embed_dim=16, depths=(1, 1), num_heads=(2, 2), window_size=4
            ).eval()

        def forward(self, pixels):
            return self.trunk(pixels)

    tower = Tower()
    blocks = find_blocks(tower)
    maps = dense.record_maps(tower, torch.randn(2, 3, 64, 64), [0, 1])
    assert [tuple(found.shape) for found in maps] == [(2, 16, 16, 16), (2, 8, 8, 32)]
    assert [(b.name, b.width, b.layout, b.stride) for b in blocks] == [
        ("trunk.layers.0", 16, "channels_last", 4),
        ("trunk.layers.1", 32, "channels_last", 8),
    ]


def test_the_end_of_a_stem_is_not_a_stage():
    import timm

    tower = nn.Module()
    tower.trunk = timm.create_model("resnet18", layers=(1, 1, 1, 1))
    assert [b.name for b in find_blocks(tower)] == [f"trunk.layer{i}" for i in range(1, 5)]


def test_other_towers_of_transformers():
    import transformers
    from open_clip.hf_model import HFTextEncoder

    t5 = transformers.MT5Config(
        vocab_size=60, d_model=16, d_kv=8, d_ff=20, num_layers=3, num_heads=2
    )
    tower = HFTextEncoder.__new__(HFTextEncoder)
    nn.Module.__init__(tower)
    tower.transformer = transformers.MT5EncoderModel(t5).encoder
    assert [(b.name, b.width) for b in find_blocks(tower)] == [
        (f"transformer.block.{i}", 16) for i in range(3)
    ]


def test_a_tower_that_is_not_known_is_refused():
    tower = nn.Module()
    tower.trunk = nn.Linear(3, 3)
    for unknown, kind in ((tower, "Linear"), (nn.Conv2d(3, 3, 1), "Conv2d")):
        with pytest.raises(InputError, match=f"the blocks of a {kind} are not known: expected"):
            find_blocks(unknown)


class Gate(nn.Module):
    """A block's output times a learned number: called with the block's arguments."""

    def __init__(self, block, factor):
        super().__init__()
        self.block = block
        self.factor = nn.Parameter(torch.tensor(factor).double())

    def forward(self, *args, **kwargs):
        output = self.block(*args, **kwargs)
        if isinstance(output, tuple):
            return (output[0] * self.factor, *output[1:])
        return output * self.factor

    def get_weight_dtype(self):
        return self.block.get_weight_dtype()


@pytest.mark.parametrize("side", ["image", "text"])
def test_a_twin_takes_other_blocks_and_the_backbone_keeps_its_own(load, family, side):
    backbone = load(family)
    pixels, state = draw_pixels(backbone), copy.deepcopy(backbone.model.state_dict())
    images, texts = backbone.encode_image(pixels), backbone.encode_text(TEXTS)
    twin = backbone.twin()
    before = twin.blocks(side)
    assert all(
        ours.module is not theirs.module
        for ours, theirs in zip(before, backbone.blocks(side), strict=True)
    )
    gates = [Gate(block.module, 0.5) for block in before]
    for block, gate in zip(before, gates, strict=True):
        twin.model.set_submodule(block.name, gate)
    after = twin.blocks(side)
    assert [block.module for block in after] == gates
    assert [(b.name, b.width, b.layout) for b in after] == [
        (b.name, b.width, b.layout) for b in before
    ]

    def encode(towers):
        return towers.encode_image(pixels) if side == "image" else towers.encode_text(TEXTS)

    changed = encode(twin)
    changed[:, 0].sum().backward()
    assert all(float(gate.factor.grad.abs()) > 0 for gate in gates)
    assert not torch.allclose(changed, images if side == "image" else texts, atol=1e-6)
    assert torch.equal(backbone.encode_image(pixels), images)
    assert torch.equal(backbone.encode_text(TEXTS), texts)
    after = backbone.model.state_dict()
    assert after.keys() == state.keys() and all(torch.equal(after[k], state[k]) for k in state)
    for gate in gates:
        gate.factor.data.fill_(1.0)
    same = images if side == "image" else texts
    assert torch.allclose(encode(twin), same, rtol=0, atol=1e-12)


class Scaled(nn.Module):
    """A layer's output times a learned vector: each token by itself."""

    def __init__(self, layer, width):
        super().__init__()
        self.layer, self.scale = layer, nn.Parameter(torch.linspace(0.5, 2, width).double())

    def forward(self, x):
        return self.layer(x) * self.scale


def test_a_layer_inside_a_block_keeps_the_fast_text_tower(load):
    twin = load("vit").twin()
    for block in twin.blocks("text"):
        block.module.mlp.c_proj = Scaled(block.module.mlp.c_proj, block.width)
    tower = twin.model.text
    assert encoding_plan.is_packable(tower)
    expected = nn.functional.normalize(tower(twin.tokenizer(TEXTS)), dim=-1)
    assert torch.allclose(twin.encode_text(TEXTS), expected, rtol=0, atol=1e-12)
    plain = load("vit").encode_text(TEXTS)
    assert not torch.allclose(plain, expected, atol=1e-3)


def test_maps_are_what_the_blocks_give(load, family):
    backbone = load(family)
    pixels, blocks = draw_pixels(backbone), backbone.blocks("image")
    given = {}
    handles = [
        block.module.register_forward_hook(
            lambda module, inputs, output, at=index: given.update({at: output.clone()})
        )
        for index, block in enumerate(blocks)
    ]
    backbone.model.visual(pixels)
    for handle in handles:
        handle.remove()
    layers = [*range(len(blocks)), -1, 0, -len(blocks)]
    maps = backbone.dense(pixels, layers)
    assert len(maps) == len(layers)
    for layer, found in zip(layers, maps, strict=True):
        block, output = blocks[layer], given[layer % len(blocks)]
        cells = backbone.image_size // block.stride
        assert found.shape == (2, cells, cells, block.width)
        for row in range(cells):
            for column in range(cells):
                if block.layout == "grid":
                    expected = output[:, block.prefix + row * cells + column]
                else:
                    expected = output[:, :, row, column]
                assert torch.allclose(found[:, row, column], expected, rtol=0, atol=1e-12)
    assert not any(block.module._forward_hooks for block in blocks)


def test_maps_are_not_those_of_a_short_last_block_and_gradients_flow(load):
    twin = load("vit").twin()
    last = twin.blocks("image")[-1].module
    last.mlp.c_proj.weight = nn.Parameter(last.mlp.c_proj.weight.detach())
    pixels = draw_pixels(twin)
    twin.dense(pixels, [1])[0].square().sum().backward()
    ours = last.mlp.c_proj.weight.grad.clone()
    last.mlp.c_proj.weight.grad = None
    tower = twin.model.visual
    x = tower._embeds(pixels)
    for block in tower.transformer.resblocks:
        x = block(x)
    x[:, 1:].square().sum().backward()
    assert torch.allclose(ours, last.mlp.c_proj.weight.grad, rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", ["vit", "resnet", "timm-vit", "convnext"])
def test_maps_in_half_precision_come_in_float32(tmp_path, family):
    half = Backbone.from_card(families.write(family, tmp_path), device="cpu", precision="bf16")
    pixels = torch.randn(1, 3, half.image_size, half.image_size)
    assert half.dense(pixels, [-1])[0].dtype == torch.float32


@pytest.mark.parametrize("layers", [[], [2], [0, -3], [5]])
def test_a_layer_that_is_not_there_is_refused(load, layers):
    backbone = load("vit")
    with pytest.raises(InputError) as error:
        backbone.dense(draw_pixels(backbone), layers)
    assert str(error.value) == (
        f"layers={layers}: the image tower has 2 blocks; expected at least one of 0 to 1, or of "
        "-2 to -1, which count from the last"
    )


def test_a_larger_image_gives_a_larger_map(load):
    backbone = load("timm-vit")  # one of timm's that takes any size
    pixels = torch.randn(1, 3, 64, 32).double()
    assert backbone.dense(pixels, [2])[0].shape == (1, 4, 2, 64)


def test_a_tuner_counts_the_blocks_of_a_transformer(load, family):
    backbone = load(family)
    for side, tower in (("image", backbone.model.visual), ("text", backbone.model.text)):
        found, blocks = tunable_layers.find_layers(tower), find_blocks(tower)
        if found.kind == "convolution":
            assert side == "image" and blocks[0].layout == "channels_first"
            continue
        for block, group in zip(blocks, found.groups, strict=False):
            assert set(group) == {"q", "k", "v", "out"}
            assert all(name.startswith(f"{block.name}.") for name in group.values())
        behind = [name for group in found.groups[len(blocks) :] for name in group.values()]
        assert len(found.groups) >= len(blocks) and all("attn_pool" in name for name in behind)
