"""The forms of fused attention that towers bring besides ``nn.MultiheadAttention``.

- open_clip's own attention (3.x in custom blocks, 4.x everywhere): a bare ``in_proj_weight``;
- the attention pooling of ModifiedResNet: four Linear layers whose weights are read past them, so
  that a tuner around them would train nothing;
- timm's: one ``qkv`` layer (or ``q`` and ``kv``) and ``proj``. The tower's own forward runs on,
  whatever it does between the projections (rotary positions, norms, windows, gates): what it finds
  under the fused name calls the separate layers and joins their outputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Names = dict[str, tuple[str, ...]]  # fused parameter: the separate ones that it was cut into

QKV = ("q_proj", "k_proj", "v_proj")

# Classes of timm whose ``qkv`` was verified to be q, k and v in this order, called as a layer.
TIMM = (
    "timm.layers.attention.Attention",
    "timm.layers.attention.AttentionRope",
    "timm.models.eva.EvaAttention",
    "timm.models.fastvit.Attention",
    "timm.models.swin_transformer.WindowAttention",
    "timm.models.vision_transformer_relpos.RelPosAttention",
)
TIMM_POOL = "timm.layers.attention_pool.AttentionPoolLatent"

# What open_clip's own attention may hold; with anything else it is a form that we do not know.
OWN = {
    "in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight",
    "out_proj.weight", "out_proj.bias", "head_scale",
    "ln_q.weight", "ln_q.bias", "ln_k.weight", "ln_k.bias", "ln_inner.weight", "ln_inner.bias",
}  # fmt: skip


def copy_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a Linear layer that holds copies of a weight and a bias."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone())
    return made


def get_fused_names(module: nn.Module) -> Names:
    """Return the fused names of a module that was taken apart; nothing for any other."""
    return module.__dict__.get("fused_names", {})


def find_form(module: nn.Module) -> Callable[[Any], nn.Module] | None:
    """Return the function that takes this module apart, None when its form is not known."""
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    if kind == "open_clip.modified_resnet.AttentionPool2d":
        return ImagePool
    if kind == TIMM_POOL:
        return _take_pool_apart
    if kind in TIMM:
        return _take_timm_apart
    return TokenAttention if _is_own(module) else None


def split_projections(fused: Any) -> tuple[dict[str, nn.Linear], Names]:
    """Return q, k and v as layers, and the fused names, of weights laid out as torch's attention.

    One ``in_proj_weight`` (3W, W), or three weights when keys and values have another width.
    """
    if fused.in_proj_weight is not None:
        weights = fused.in_proj_weight.chunk(3)
        names: Names = {"in_proj_weight": tuple(f"{name}.weight" for name in QKV)}
    else:
        weights = tuple(getattr(fused, f"{name}_weight") for name in QKV)
        names = {f"{name}_weight": (f"{name}.weight",) for name in QKV}
    biases = (None,) * 3
    if fused.in_proj_bias is not None:
        biases = fused.in_proj_bias.chunk(3)
        names["in_proj_bias"] = tuple(f"{name}.bias" for name in QKV)
    layers = map(copy_linear, weights, biases)
    return dict(zip(QKV, layers, strict=True)), names


class TokenAttention(nn.Module):
    """open_clip's own attention with separate projections: tokens (N, L, W) -> (N, L, W)."""

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    ln_q: nn.Module
    ln_k: nn.Module
    ln_inner: nn.Module

    def __init__(self, fused: Any) -> None:
        super().__init__()
        self.heads = int(fused.num_heads)
        layers, self.fused_names = split_projections(fused)
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.out_proj = fused.out_proj
        self.head_scale = getattr(fused, "head_scale", None)  # (heads, 1, 1)
        for name in ("ln_q", "ln_k", "ln_inner"):
            setattr(self, name, getattr(fused, name, nn.Identity()))
        # A True in a mask of booleans forbids in open_clip 3 and allows in open_clip 4.
        self.true_forbids = "k_x" not in inspect.signature(fused.forward).parameters

    def forward(
        self,
        x: Tensor,
        k_x: Tensor | None = None,
        v_x: Tensor | None = None,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend to ``x``, or to the keys and values given; the arguments are open_clip 4's."""
        q = self.q_proj(x)
        k, v = self.k_proj(x if k_x is None else k_x), self.v_proj(x if v_x is None else v_x)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        q, k = self.ln_q(q), self.ln_k(k)  # (N, heads, L, W / heads)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self._fit(attn_mask, q, k))
        if self.head_scale is not None:
            out = out * self.head_scale
        return self.out_proj(self.ln_inner(out.transpose(1, 2).flatten(2)))

    def _fit(self, mask: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
        if mask is None:
            return None
        mask = mask[..., : q.shape[2], : k.shape[2]]
        if mask.dim() == 3:  # (N * heads, L, L)
            mask = mask.unflatten(0, (q.shape[0], self.heads))
        if mask.dtype == torch.bool:
            return ~mask if self.true_forbids else mask
        return mask.to(q.dtype)


class ImagePool(nn.Module):
    """ModifiedResNet's attention pooling: a map (N, C, H, W) -> (N, D), the mean asks the map."""

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear

    def __init__(self, fused: Any) -> None:
        super().__init__()
        self.heads = int(fused.num_heads)
        self.positional_embedding = fused.positional_embedding  # (H * W + 1, C)
        for name in QKV:
            setattr(self, name, getattr(fused, name))
        self.out_proj = fused.c_proj
        self.fused_names = _map_names("c_proj.", ("out_proj",))

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled map; only the one query whose output is used is computed."""
        tokens = x.flatten(2).transpose(1, 2)  # (N, H * W, C)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)
        tokens = tokens + self.positional_embedding.to(x.dtype)
        q, k, v = self.q_proj(tokens[:, :1]), self.k_proj(tokens), self.v_proj(tokens)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v)  # (N, heads, 1, C / heads)
        return self.out_proj(out.flatten(1))


class Joined:
    """Stands under a fused layer's name: the outputs of the owner's separate layers, joined."""

    def __init__(self, owner: nn.Module, parts: tuple[str, ...]) -> None:
        self.owner, self.parts = owner, parts

    def __call__(self, x: Tensor) -> Tensor:
        """Return (..., width of all parts)."""
        outputs = [getattr(self.owner, part)(x) for part in self.parts]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)


def _take_timm_apart(module: Any) -> nn.Module:
    module.fused_names = {}
    if getattr(module, "q_bias", None) is not None:
        _cut_eva(module)
    elif module.qkv is not None:
        _cut(module, "qkv", QKV)
    _cut(module, "proj", ("out_proj",))
    return module


def _take_pool_apart(module: Any) -> nn.Module:
    module.fused_names = {}
    for old, parts in (("q", ("q_proj",)), ("kv", ("k_proj", "v_proj")), ("proj", ("out_proj",))):
        if isinstance(getattr(module, old), nn.Linear):
            _cut(module, old, parts)
    return module


def _cut(module: Any, old: str, parts: tuple[str, ...]) -> None:
    fused = getattr(module, old)
    count = len(parts)
    biases = (None,) * count if fused.bias is None else fused.bias.chunk(count)
    for name, weight, bias in zip(parts, fused.weight.chunk(count), biases, strict=True):
        setattr(module, name, copy_linear(weight, bias))
    delattr(module, old)
    setattr(module, old, Joined(module, parts))
    module.fused_names |= _map_names(f"{old}.", parts, bias=fused.bias is not None)


def _cut_eva(module: Any) -> None:
    # EVA's queries and values have a bias beside the fused weight, its keys have none; its forward
    # knows separate layers of these names.
    biases = (module.q_bias, None, module.v_bias)
    for name, weight, bias in zip(QKV, module.qkv.weight.chunk(3), biases, strict=True):
        setattr(module, name, copy_linear(weight, bias))
    for old in ("qkv", "q_bias", "k_bias", "v_bias"):
        delattr(module, old)
        setattr(module, old, None)
    module.fused_names |= _map_names("qkv.", QKV, bias=False)
    module.fused_names |= {"q_bias": ("q_proj.bias",), "v_bias": ("v_proj.bias",)}


def _map_names(before: str, parts: tuple[str, ...], bias: bool = True) -> Names:
    kinds = ("weight", "bias") if bias else ("weight",)
    return {f"{before}{kind}": tuple(f"{p}.{kind}" for p in parts) for kind in kinds}


def _is_own(module: Any) -> bool:
    held = {name for name, _ in module.named_parameters()}
    bare = {"in_proj_weight", "q_proj_weight"} & held
    return bool(bare) and hasattr(module, "num_heads") and held <= OWN
