"""Fused attention becomes separate q, k, v and out projections: the same numbers, one set of names.

A delta that names ``q_proj`` survives a change of open_clip's own attention, every PEFT tuner finds
Linear layers to work on, and PEFT's handling of ``nn.MultiheadAttention`` (which merges adapters
into the frozen weights at every call) is never met.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SeparateAttention(nn.Module):
    """Multi-head attention with four Linear layers, called like ``nn.MultiheadAttention``.

    Args:
        width: features a token.
        heads: attention heads; they divide ``width``.
        bias: whether the projections have a bias.
        batch_first: inputs are (N, L, W) when True, else (L, N, W).
    """

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
        weight, bias = fused.in_proj_weight, fused.in_proj_bias  # (3W, W), (3W,)
        new = cls(fused.embed_dim, fused.num_heads, bias is not None, fused.batch_first)
        new.to(device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            for index, name in enumerate(("q_proj", "k_proj", "v_proj")):
                linear = getattr(new, name)
                linear.weight.copy_(weight.chunk(3)[index])
                if bias is not None:
                    linear.bias.copy_(bias.chunk(3)[index])
            new.out_proj.load_state_dict(fused.out_proj.state_dict())
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


def separate(model: nn.Module) -> int:
    """Replace every fused self-attention in the model, in place; return how many there were.

    Attention over keys or values of another width (CoCa's pooler) and added bias tokens stay as
    they are: no tuner needs them taken apart.
    """
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.MultiheadAttention) and _is_plain(child)
    ]
    for parent, name, child in found:
        setattr(parent, name, SeparateAttention.of(child))
    return len(found)


def fuse_state_dict(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of separate attention under the fused names it came from."""
    fused: dict[str, Tensor] = {}
    for name, tensor in state.items():
        head, _, kind = name.rpartition(".")
        if head.endswith((".k_proj", ".v_proj")) and _sibling(head) in state:
            continue
        if head.endswith(".q_proj"):
            parts = [state[f"{head[:-6]}{p}_proj.{kind}"] for p in "qkv"]
            fused[f"{head[:-6]}in_proj_{kind}"] = torch.cat(parts)
        else:
            fused[name] = tensor
    return fused


def _sibling(head: str) -> str:
    return f"{head[:-6]}q_proj.weight"


def _is_plain(attention: nn.MultiheadAttention) -> bool:
    return (
        attention.in_proj_weight is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
    )
