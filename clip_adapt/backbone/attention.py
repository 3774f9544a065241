"""Fused attention becomes separate q, k, v and out projections: the same numbers, one set of names.

A delta that names ``q_proj`` survives a change of open_clip's own attention, every PEFT tuner finds
Linear layers to work on, and PEFT's handling of ``nn.MultiheadAttention`` (which merges adapters
into the frozen weights at every call) is never met. The forms that the towers of open_clip and timm
bring besides ``nn.MultiheadAttention`` are in ``attention_forms``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_adapt.backbone import attention_forms as forms
from clip_adapt.backbone.attention_forms import (
    Names,
    copy_linear,
    get_fused_names,
    split_projections,
)


class SeparateAttention(nn.Module):
    """Multi-head attention with four Linear layers, called like ``nn.MultiheadAttention``.

    Args:
        width: features per token.
        heads: attention heads; they divide ``width``.
        bias: whether the projections have a bias.
        batch_first: inputs are (N, L, W) when True, else (L, N, W).
    """

    fused_names: Names

    def __init__(self, width: int, heads: int, bias: bool = True, batch_first: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.batch_first = batch_first
        self.q_proj = nn.Linear(width, width, bias)
        self.k_proj = nn.Linear(width, width, bias)
        self.v_proj = nn.Linear(width, width, bias)
        self.out_proj = nn.Linear(width, width, bias)

    @classmethod
    def of(cls, fused: nn.MultiheadAttention) -> SeparateAttention:
        """Return the separate form of a fused attention, with its weights, dtype and device."""
        layers, names = split_projections(fused)
        bias = layers["q_proj"].bias is not None
        with torch.device("meta"):
            new = cls(fused.embed_dim, fused.num_heads, bias, fused.batch_first)
        for name, layer in layers.items():
            setattr(new, name, layer)
        new.out_proj = copy_linear(fused.out_proj.weight, fused.out_proj.bias)
        new.fused_names = names
        return new

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attend. An additive mask larger than the sequences is cut to their lengths.

        Returns:
            the attended tokens, in the layout of ``query``, and None in place of the weights.
        """
        assert not need_weights, "attention weights are not computed here"
        if not self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        q = self._split(self.q_proj(query))  # (N, heads, L, W / heads)
        k = self._split(self.k_proj(key))
        v = self._split(self.v_proj(value))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self._fit(attn_mask, q, k))
        out = self.out_proj(out.transpose(1, 2).flatten(2))  # (N, L, W)
        return (out if self.batch_first else out.transpose(0, 1)), None

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _fit(self, mask: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
        if mask is None:
            return None
        mask = mask[..., : q.shape[2], : k.shape[2]]
        if mask.dim() == 3:  # (N * heads, L, L), the layout of nn.MultiheadAttention
            mask = mask.unflatten(0, (q.shape[0], self.heads))
        return mask if mask.dtype == torch.bool else mask.to(q.dtype)


def separate_attention(model: nn.Module) -> int:
    """Take every fused attention of the model apart, in place; return how many there were.

    A form that is not known stays as it is; ``find_fused`` names it.
    """
    found = [
        (parent, name, child, separated)
        for parent in model.modules()
        for name, child in parent.named_children()
        if (separated := _find_form(child)) is not None
    ]
    for parent, name, child, separated in found:
        setattr(parent, name, separated(child))
    return len(found)


def find_fused(model: nn.Module) -> list[str]:
    """Return ``name (class)`` of every attention that still holds q, k and v in one weight."""
    return [
        f"{name} ({type(module).__name__})"
        for name, module in model.named_modules()
        if isinstance(getattr(module, "in_proj_weight", None), Tensor)
        or any(isinstance(getattr(module, n, None), nn.Module) for n in ("qkv", "kv"))
    ]


def fuse_state_dict(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return a state dict of separate attention under the fused names it came from.

    That is the way back to open_clip: its own model of the same architecture loads the result.

    Args:
        state: of ``model``, or with the same names.
        model: what ``separate_attention`` was called on; it remembers the names.
    """
    fused = dict(state)
    for prefix, module in model.named_modules():
        for old, parts in get_fused_names(module).items():
            taken = [fused.pop(f"{prefix}.{part}".lstrip(".")) for part in parts]
            fused[f"{prefix}.{old}".lstrip(".")] = taken[0] if len(taken) == 1 else torch.cat(taken)
    return fused


def _find_form(module: nn.Module) -> Callable[[Any], nn.Module] | None:
    if isinstance(module, nn.MultiheadAttention):
        plain = module.bias_k is None and not module.add_zero_attn
        return SeparateAttention.of if plain else None
    return forms.find_form(module)
