"""Prompts of different lengths laid out as one sequence, without padding and without repetition.

    [start, shared ...] [rest of prompt 3, rest of prompt 0] [rest of prompt 1, rest of prompt 2]

The tokens that all prompts begin with stand in it once. What is left of the prompts lies in rows of
about equal length. A token attends to the shared ones, and to those of its own prompt up to itself:
linear layers see one sequence, attention sees the rows, each behind the shared keys and values.

Only attention mixes tokens, and a causal mask lets no token hear a later one: so a shared beginning
has the same states in every prompt, and a prompt need not know who its neighbours in a row are.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_adapt.system.machine import send

# Tokens of a row: attention's cost grows with it, the number of copies of the shared keys falls.
ROW = 64


@dataclass(frozen=True)
class Packed:
    """C prompts as one sequence of T tokens: ``prefix`` shared ones, then R rows of L.

    Attributes:
        prefix: how many leading tokens all prompts share; they stand in the sequence once.
        ids: (T,) token ids.
        positions: (T,) places in the prompt.
        mask: (R, 1, L, prefix + L), True where a token attends.
        queries: (R * E,) places in the sequence of each row's end tokens, filled up.
        query_mask: (R, 1, E, prefix + L), the mask of those.
        ends: (C,) places of the end tokens in the sequence, in the order of the prompts.
        chosen: (C,) places of the end tokens in ``queries``.
        slots: (S,) places of the context vectors in the sequence: first those in the shared part,
            then those of each prompt's rest, prompt by prompt.
        shared_slots: how many of them lie in the shared part.
    """

    prefix: int
    ids: Tensor
    positions: Tensor
    mask: Tensor
    queries: Tensor
    query_mask: Tensor
    ends: Tensor
    chosen: Tensor
    slots: Tensor
    shared_slots: int

    def to(self, device: torch.device) -> Packed:
        """Return it on a device."""
        tensors: dict[str, Any] = {
            k: send(v, device) for k, v in vars(self).items() if isinstance(v, Tensor)
        }
        return replace(self, **tensors)

    def spread_context(self, context: Tensor) -> Tensor:
        """Return context (n_ctx, W) or (C, n_ctx, W) as the vectors (S, W) for ``slots``."""
        if context.dim() == 3:  # nothing of it is shared, and slots run prompt by prompt
            return context.flatten(0, 1)
        # What stands in the shared part enters once, so its gradient is the sum over all prompts.
        shared, own = context[: self.shared_slots], context[self.shared_slots :]
        return torch.cat([shared, own.expand(len(self.ends), -1, -1).flatten(0, 1)])

    def split_rows(self, tokens: Tensor, heads: int) -> Tensor:
        """Return tokens (R * n, W) row by row and apart by heads (R, heads, n, W / heads)."""
        return tokens.unflatten(1, (heads, -1)).unflatten(0, (len(self.mask), -1)).transpose(1, 2)

    def take_prefix(self, tokens: Tensor, heads: int) -> Tensor:
        """Return the shared ones of the tokens (T, W) by heads (1, heads, prefix, W / heads)."""
        return tokens[None, : self.prefix].unflatten(2, (heads, -1)).transpose(1, 2)

    def put_behind_prefix(self, tokens: Tensor, heads: int) -> Tensor:
        """Return each row of the tokens (T, W) behind the shared ones (R, heads, prefix + L, d)."""
        own = self.split_rows(tokens[self.prefix :], heads)
        if not self.prefix:
            return own
        return torch.cat([self.take_prefix(tokens, heads).expand(len(own), -1, -1, -1), own], 2)


def pack(ids: Tensor, ends: Tensor, slots: Tensor, *, share: bool, own_context: bool) -> Packed:
    """Lay prompts out as one sequence.

    Args:
        ids: (C, L) token ids, on the CPU, as what follows.
        ends: (C,) the last token of each prompt that counts.
        slots: (C, L), True where a context vector stands, equally often in every row.
        share: compute the common beginning once.
        own_context: every prompt has context vectors of its own, so none can be shared.
    """
    # A prompt alone shares nothing: as one row, its mask is the causal one.
    prefix = _count_shared(ids, ends, slots, own_context) if share and len(ids) > 1 else 0
    rows, length = _fill_rows((ends + 1 - prefix).tolist())
    # Each cell of the rows has a prompt that it belongs to (-1: it fills the row up) and a place in
    # that prompt. Masks, positions and look-ups all follow from these two tables.
    owner = torch.full((len(rows), length), -1)
    place = torch.zeros(len(rows), length, dtype=torch.long)
    for row, prompts in enumerate(rows):
        sizes = ends[prompts] + 1 - prefix
        owner[row, : sizes.sum()] = torch.tensor(prompts).repeat_interleave(sizes)
        place[row, : sizes.sum()] = torch.cat([torch.arange(n) for n in sizes]) + prefix
    seen = owner.clamp_min(0)  # what fills a row up is read from the first prompt and not used
    tail = torch.arange(owner.numel()).view_as(owner) + prefix
    at = torch.zeros_like(ids)  # (C, L): where a token of a prompt stands in the sequence
    at[:, :prefix] = torch.arange(prefix)
    at[owner[owner >= 0], place[owner >= 0]] = tail[owner >= 0]
    mask = _make_mask(owner, prefix)
    # Only end tokens ask in the last block. They are numbered by row, because attention works by
    # row there too.
    queries, chosen = _place_queries(rows, at.gather(1, ends[:, None])[:, 0])
    local = (queries - prefix).view(len(rows), -1) - torch.arange(len(rows))[:, None] * length
    shared_slots = int(slots[0, :prefix].sum())
    own_slots = at[:, prefix:][slots[:, prefix:]]
    return Packed(
        prefix=prefix,
        ids=torch.cat([ids[0, :prefix], ids[seen, place].flatten()]),
        positions=torch.cat([torch.arange(prefix), place.flatten()]),
        mask=mask,
        queries=queries,
        query_mask=mask.gather(2, local[:, None, :, None].expand(-1, 1, -1, mask.shape[3])),
        ends=queries[chosen],
        chosen=chosen,
        slots=torch.cat([slots[0, :prefix].nonzero()[:, 0], own_slots]),
        shared_slots=shared_slots,
    )


def _count_shared(ids: Tensor, ends: Tensor, slots: Tensor, own_context: bool) -> int:
    same = (ids == ids[:1]).all(0)
    if own_context:
        same &= ~slots.any(0)
    run = int(same.long().cumprod(0).sum())
    return min(run, int(ends.min()))  # every prompt keeps its end token for itself


def _fill_rows(sizes: list[int]) -> tuple[list[list[int]], int]:
    # Rows are padded to the longest, so what counts is that they are even. The longest prompt
    # first, each into the emptiest row: rows differ by less than a prompt.
    count = max(1, round(sum(sizes) / max(ROW, max(sizes))))
    rows: list[list[int]] = [[] for _ in range(count)]
    fill = [(0, row) for row in range(count)]
    for prompt in sorted(range(len(sizes)), key=lambda p: -sizes[p]):
        load, row = heapq.heappop(fill)
        rows[row].append(prompt)
        heapq.heappush(fill, (load + sizes[prompt], row))
    return rows, max(load for load, _ in fill)


def _make_mask(owner: Tensor, prefix: int) -> Tensor:
    # Cells that fill a row up attend to one another: a row of the mask without any True would give
    # NaN, in whose place a number that nobody reads is harmless.
    same = owner[:, :, None] == owner[:, None, :]  # (R, L, L)
    return F.pad(same.tril(), (prefix, 0), value=True)[:, None]


def _place_queries(rows: list[list[int]], ends: Tensor) -> tuple[Tensor, Tensor]:
    # Rows hold different numbers of prompts; the last one's end token asks again in the rest, and
    # ``chosen`` leaves those answers out.
    most = max(map(len, rows))
    filled = torch.tensor([row + row[-1:] * (most - len(row)) for row in rows])  # (R, E)
    chosen = torch.empty(len(ends), dtype=torch.long)
    for index, row in enumerate(rows):
        chosen[row] = torch.arange(len(row)) + index * most
    return ends[filled].flatten(), chosen
