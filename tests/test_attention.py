"""Every form of fused attention, taken apart: the same numbers, and the same weights put back."""

from __future__ import annotations

import copy
import inspect
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import AttentionPool2d
from open_clip.transformer import Attention as OwnAttention
from timm.layers import Attention, AttentionPoolLatent, AttentionRope
from timm.models.eva import EvaAttention
from timm.models.fastvit import Attention as MapAttention
from timm.models.swin_transformer import WindowAttention
from timm.models.vision_transformer_relpos import RelPosAttention, RelPosMlp
from torch import nn

from clip_adapt.backbone import attention

NORM = nn.LayerNorm


class OpenClip4Attention(nn.Module):
    """A stand-in for the attention of open_clip 4: bare weights, tokens in, tokens out."""

    def __init__(self, width, heads, kdim=None):
        super().__init__()
        self.num_heads = heads
        kdim = kdim or width
        same = kdim == width
        self.in_proj_weight = nn.Parameter(torch.randn(3 * width, width)) if same else None
        for name, wide in (("q", width), ("k", kdim), ("v", kdim)):
            weight = None if same else nn.Parameter(torch.randn(width, wide))
            setattr(self, f"{name}_proj_weight", weight)
        self.in_proj_bias = nn.Parameter(torch.randn(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.ln_q = self.ln_k = self.ln_inner = nn.Identity()

    def forward(self, x, k_x=None, v_x=None, attn_mask=None):
        weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3)
        given = (x, x if k_x is None else k_x, x if v_x is None else v_x)
        q, k, v = (
            F.linear(tokens, w, b).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for tokens, w, b in zip(given, weights, self.in_proj_bias.chunk(3), strict=True)
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out_proj(out.transpose(1, 2).flatten(2))


def tokens(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


X, MAP = tokens(2, 17, 32), tokens(2, 32, 4, 4)
WINDOW = partial(RelPosMlp, window_size=(4, 4), hidden_dim=8)
FORMS = {
    "torch": (lambda: nn.MultiheadAttention(32, 4, batch_first=True), (X, X, X)),
    "torch, other keys": (
        lambda: nn.MultiheadAttention(32, 4, kdim=24, vdim=24, batch_first=True),
        (X, tokens(2, 9, 24), tokens(2, 9, 24)),
    ),
    "open_clip 3": (
        lambda: OwnAttention(32, 4, qk_norm=True, scale_heads=True, inner_norm=True),
        (X,),
    ),
    "open_clip 3, no bias": (lambda: OwnAttention(32, 4, qkv_bias=False), (X,)),
    "open_clip 4": (lambda: OpenClip4Attention(32, 4), (X,)),
    "open_clip 4, other keys": (
        lambda: OpenClip4Attention(32, 4, kdim=24),
        (X, tokens(2, 9, 24), tokens(2, 9, 24)),
    ),
    "resnet pooling": (lambda: AttentionPool2d(4, 32, 4, 24), (MAP,)),
    "timm": (lambda: Attention(32, 4, qkv_bias=True, qk_norm=True, norm_layer=NORM), (X,)),
    "timm rotary": (lambda: AttentionRope(32, 4), (X, tokens(16, 16))),
    "timm EVA": (lambda: EvaAttention(32, 4, norm_layer=NORM), (X, tokens(16, 16))),
    "timm EVA, separate": (lambda: EvaAttention(32, 4, qkv_fused=False, norm_layer=NORM), (X,)),
    "timm FastViT": (lambda: MapAttention(32, head_dim=8, qkv_bias=True), (MAP,)),
    "timm window": (lambda: WindowAttention(32, 4, window_size=(4, 4)), (tokens(2, 16, 32),)),
    "timm relative": (lambda: RelPosAttention(32, 4, rel_pos_cls=WINDOW), (tokens(2, 16, 32),)),
    "timm pooling": (lambda: AttentionPoolLatent(32, num_heads=4, norm_layer=NORM), (X,)),
}
if "gated" in inspect.signature(Attention).parameters:  # since timm 1.0.28
    gated = partial(Attention, 32, 4, gated=True, scale_norm=True, norm_layer=NORM)
    FORMS["timm gated"] = (gated, (X,))


@pytest.fixture(params=FORMS)
def form(request):
    """A model of one fused attention with weights away from their start, and inputs of it."""
    torch.manual_seed(0)
    make, inputs = FORMS[request.param]
    model = nn.ModuleDict({"attn": make()}).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model, inputs


def outputs(model, inputs):
    out = model["attn"](*inputs)
    return out[0] if isinstance(out, tuple) else out


def test_the_separate_form_gives_the_same_numbers(form):
    model, inputs = form
    expected = outputs(model, inputs)
    assert attention.separate_attention(model) == 1
    assert torch.allclose(outputs(model, inputs), expected, rtol=0, atol=1e-6)
    assert attention.find_fused(model) == []


def test_the_weights_go_back_without_a_difference(form):
    model, _ = form
    original = copy.deepcopy(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attention.separate_attention(model)
    fused = attention.fuse_state_dict(model.state_dict(), model)
    assert fused.keys() == before.keys()
    assert all(torch.equal(fused[name], before[name]) for name in before)
    original.load_state_dict(fused)  # strictly


def test_each_projection_is_a_layer_that_the_output_depends_on(form):
    model, inputs = form
    attention.separate_attention(model)
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        layer = model["attn"].get_submodule(name)
        assert isinstance(layer, nn.Linear)
        # A tuner wraps the layer: what it adds must reach the output.
        before, wrapped = outputs(model, inputs), nn.Sequential(layer, nn.Tanh())
        setattr(model["attn"], name, wrapped)
        assert not torch.allclose(outputs(model, inputs), before, atol=1e-4)
        setattr(model["attn"], name, layer)


def test_a_copy_has_projections_of_its_own(form):
    model, inputs = form
    attention.separate_attention(model)
    copied = copy.deepcopy(model)
    before = outputs(model, inputs)
    for parameter in copied.parameters():
        parameter.data.zero_()
    assert torch.equal(outputs(model, inputs), before)
    assert not torch.allclose(outputs(copied, inputs), before)


@pytest.mark.parametrize(("make", "allowed"), [(OwnAttention, False), (OpenClip4Attention, True)])
def test_masks_mean_what_they_meant(make, allowed):
    torch.manual_seed(0)
    model = nn.ModuleDict({"attn": make(32, 4)}).eval()
    added = torch.full((17, 17), -math.inf).triu(1)
    booleans = (added == 0) if allowed else (added != 0)
    expected = model["attn"](X, attn_mask=added)
    attention.separate_attention(model)
    for mask in (added, booleans, torch.full((30, 30), -math.inf).triu(1)):
        assert torch.allclose(model["attn"](X, attn_mask=mask), expected, rtol=0, atol=1e-6)
    each = added.expand(2 * 4, 17, 17)  # one a head of every row
    assert torch.allclose(model["attn"](X, attn_mask=each), expected, rtol=0, atol=1e-6)


def test_an_unknown_form_stays_and_is_named():
    class Strange(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(8, 24)

    biased = nn.MultiheadAttention(8, 2, add_bias_kv=True)
    model = nn.ModuleDict(
        {"a": Strange(), "b": biased, "c": OwnAttention(8, 2, scaled_cosine=True)}
    )
    assert attention.separate_attention(model) == 0
    assert attention.find_fused(model) == ["a (Strange)", "b (MultiheadAttention)", "c (Attention)"]
