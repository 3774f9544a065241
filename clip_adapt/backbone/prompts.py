"""Prompts with learned context vectors: where they stand, and how they enter the text tower.

A context vector is written as a placeholder word, tokenised with the rest of the prompt, and put in
place of that word's embedding by a hook on the token embedding. The tower itself is untouched, so
this works for every text tower that looks tokens up in an embedding.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from clip_adapt.backbone.blocks import Block
from clip_adapt.errors import InputError
from clip_adapt.system.machine import send

Position = Literal["end", "middle", "front"]
Tokenizer = Callable[..., Tensor]

# Words of one letter are one token in every vocabulary; more than one is kept because a placeholder
# must not occur in the class names ("x-ray").
PLACEHOLDERS = ("x", "z", "q", "j", "v", "k", "w", "y")


@dataclass(frozen=True)
class PromptTokens:
    """Tokenised prompts.

    Attributes:
        ids: (C, L) token ids.
        slots: (C, L), True where a context vector stands; on the CPU.
    """

    ids: Tensor
    slots: Tensor

    @functools.cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """Rows and columns of the slots, prompt by prompt, where the ids are."""
        rows, columns = self.slots.nonzero(as_tuple=True)
        return send(rows, self.ids.device), send(columns, self.ids.device)


def tokenize(tokenizer: Tokenizer, texts: list[str], context_length: int) -> Tensor:
    """Return the token ids (N, context_length).

    Raises:
        InputError: when a text does not fit; open_clip's tokenizers would cut it without a word.
    """
    for text, length in zip(texts, count_tokens(tokenizer, texts, context_length), strict=True):
        if length > context_length:
            raise InputError(
                f"a prompt of {length} tokens does not fit into the text tower's "
                f"{context_length}: {text[:80]!r}. Shorten it, or use fewer context vectors."
            )
    return tokenizer(texts, context_length=context_length)


def count_tokens(tokenizer: Tokenizer, texts: list[str], context_length: int) -> list[int]:
    """Return how many tokens texts have, counted up to four times the tower's context length."""
    # The tokenizers give no lengths and cut without a word, so there must be room to see the cut.
    longer = tokenizer(texts, context_length=4 * context_length)
    padding = longer[:, -1:]  # the last column is padding unless a text is absurdly long
    used = (longer != padding).long()
    found = used.shape[1] - used.flip(1).argmax(1)
    # Where the padding is the end token, too (SigLIP), the last one that is cut is not counted.
    cut = tokenizer(texts, context_length=context_length)
    changed = (longer[:, :context_length] != cut).any(1)
    return torch.where(changed, found.clamp_min(context_length + 1), found).tolist()


def tokenize_prompts(
    tokenizer: Tokenizer, texts: list[str], n_ctx: int, position: Position, context_length: int
) -> PromptTokens:
    """Return tokenised texts with ``n_ctx`` places for context vectors, as many as none.

    Raises:
        InputError: when a prompt is too long.
    """
    if n_ctx:
        return tokenize_with_slots(tokenizer, texts, n_ctx, position, context_length)
    ids = tokenize(tokenizer, texts, context_length)
    return PromptTokens(ids, torch.zeros_like(ids, dtype=torch.bool))


def tokenize_with_slots(
    tokenizer: Tokenizer, texts: list[str], n_ctx: int, position: Position, context_length: int
) -> PromptTokens:
    """Return the texts with ``n_ctx`` places for context vectors in each.

    Args:
        tokenizer: an open_clip tokenizer.
        texts: one text per class, usually ``"name."``.
        n_ctx: number of context vectors.
        position: ``end`` puts the context before the text; ``front`` between the text and its full
            stop; ``middle`` half (rounded down) before the text, the rest before the full stop.
        context_length: longest sequence of the text tower, in tokens.

    Raises:
        InputError: when a prompt is too long.
    """
    # A placeholder is told by its token id, not by its place: not every tokenizer writes a start
    # token, and a full stop may merge with the word before it.
    for word in PLACEHOLDERS:
        slot = _find_token(tokenizer, word)
        if slot is None or bool((tokenizer(texts) == slot).any()):
            continue
        prompts = [_compose_prompt(text, word, n_ctx, position) for text in texts]
        ids = tokenize(tokenizer, prompts, context_length)
        slots = ids == slot
        if bool((slots.sum(1) == n_ctx).all()):
            return PromptTokens(ids, slots)
    raise InputError(
        "no placeholder is left for the context vectors: the texts use every one-letter word of "
        f"{', '.join(PLACEHOLDERS)}, or the tokenizer joins them; rename a class"
    )


def tokenize_words(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the token ids of the words of a text, without start, end and padding."""
    special = set(tokenizer([""])[0].tolist())
    return [i for i in tokenizer([text])[0].tolist() if i not in special]


@contextlib.contextmanager
def replace_embeddings(
    embedding: nn.Module, prompt: PromptTokens, context: Tensor
) -> Iterator[None]:
    """While the block runs, the embedding gives the context vectors at the slots.

    Args:
        embedding: the token embedding of a text tower.
        prompt: what the tower gets; n_ctx slots in every row.
        context: (n_ctx, W), or (C, n_ctx, W) with vectors of each class's own.
    """
    per_class = context if context.dim() == 3 else context.expand(len(prompt.ids), -1, -1)

    def put(module: nn.Module, inputs: Any, tokens: Tensor) -> Tensor:
        # By places, not by a mask: its way back would ask a GPU how many there are. A tower may
        # leave out what is padding in every row; slots never are.
        return tokens.index_put(prompt.places, per_class.to(tokens.dtype).flatten(0, 1))

    handle = embedding.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def replace_states(blocks: Sequence[Block], prompt: PromptTokens, deep: Tensor) -> Iterator[None]:
    """While the block runs, blocks of a text tower find deep prompts at the slots.

    Args:
        blocks: the first len(deep) of them take one each.
        prompt: what the tower gets; n_ctx slots in every row.
        deep: (blocks, n_ctx, W), or (C, blocks, n_ctx, W) with vectors of each class's own.
    """
    handles = []
    for block, vectors in zip(blocks, deep.unbind(-3), strict=False):
        per_class = vectors if vectors.dim() == 3 else vectors.expand(len(prompt.ids), -1, -1)
        put = functools.partial(_put_states, block.batch_first, prompt.places, per_class)
        handles.append(block.module.register_forward_pre_hook(put))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def match_deep(
    context: Tensor, deep: Tensor, blocks: Sequence[Block], count: int
) -> tuple[Tensor, Tensor]:
    """Return context and deep prompts both shared, or both of each text's own.

    Args:
        context: (n_ctx, W) or (C, n_ctx, W).
        deep: (blocks, n_ctx, W) or (C, blocks, n_ctx, W).
        blocks: all of the text tower.
        count: C, the number of texts.

    Raises:
        InputError: when the deep prompts do not fit the context, the texts, or the tower.
    """
    n_ctx, width, most = context.shape[-2], blocks[0].width, len(blocks) - 1
    fits = deep.dim() in (3, 4) and deep.shape[-2:] == (n_ctx, width) and deep.shape[-3] <= most
    if not fits or (deep.dim() == 4 and len(deep) != count):
        raise InputError(
            f"deep prompts of shape {tuple(deep.shape)} do not fit: expected (blocks, {n_ctx}, "
            f"{width}), or ({count}, blocks, {n_ctx}, {width}) with vectors of each text's own, "
            f"for at most {most} blocks: of the text tower's {most + 1} the first takes the context"
        )
    if deep.dim() == 4 and context.dim() == 2:
        context = context.expand(count, -1, -1)
    if deep.dim() == 3 and context.dim() == 3:
        deep = deep.expand(count, -1, -1, -1)
    return context, deep


def _put_states(
    batch_first: bool,
    places: tuple[Tensor, Tensor],
    vectors: Tensor,
    module: nn.Module,
    inputs: tuple[Any, ...],
) -> tuple[Any, ...]:
    tokens, *more = inputs  # (N, L, W), or (L, N, W)
    rows, columns = places
    at = (rows, columns) if batch_first else (columns, rows)
    return tokens.index_put(at, vectors.to(tokens.dtype).flatten(0, 1)), *more


def _find_token(tokenizer: Tokenizer, word: str) -> int | None:
    alone, many = tokenize_words(tokenizer, word), tokenize_words(tokenizer, f"{word} {word}.")
    return alone[0] if len(alone) == 1 and many[:2] == alone * 2 else None


def _compose_prompt(text: str, word: str, n_ctx: int, position: Position) -> str:
    if position == "end":
        return " ".join([word] * n_ctx + [text])
    before = n_ctx // 2 if position == "middle" else 0
    name, stop = (text[:-1], ".") if text.endswith(".") else (text, "")
    return " ".join([word] * before + [name] + [word] * (n_ctx - before)) + stop
