"""Prompts with learned context vectors: where they stand, and how they enter the text tower.

A context vector is written as a placeholder word, tokenised with the rest of the prompt, and put in
place of that word's embedding by a hook on the token embedding. The tower itself is untouched, so
this works for every text tower that looks tokens up in an embedding.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

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
    for text, length in zip(texts, lengths(tokenizer, texts, context_length), strict=True):
        if length > context_length:
            raise InputError(
                f"a prompt of {length} tokens does not fit into the text tower's "
                f"{context_length}: {text[:80]!r}. Shorten it, or use fewer context vectors."
            )
    return tokenizer(texts, context_length=context_length)


def lengths(tokenizer: Tokenizer, texts: list[str], context_length: int) -> list[int]:
    """Return how many tokens texts have, counted up to four times the tower's context length."""
    longer = tokenizer(texts, context_length=4 * context_length)
    padding = longer[:, -1:]  # the last column is padding unless a text is absurdly long
    used = (longer != padding).long()
    found = used.shape[1] - used.flip(1).argmax(1)
    # Where the padding is the end token, too (SigLIP), the last one that is cut is not counted.
    cut = tokenizer(texts, context_length=context_length)
    changed = (longer[:, :context_length] != cut).any(1)
    return torch.where(changed, found.clamp_min(context_length + 1), found).tolist()


def with_slots(
    tokenizer: Tokenizer, texts: list[str], n_ctx: int, position: Position, context_length: int
) -> PromptTokens:
    """Return the texts with ``n_ctx`` places for context vectors in each.

    Args:
        tokenizer: an open_clip tokenizer.
        texts: one text a class, usually ``"name."``.
        n_ctx: number of context vectors.
        position: ``end`` puts the context before the text; ``front`` between the text and its full
            stop; ``middle`` half (rounded down) before the text, the rest before the full stop.
        context_length: longest sequence of the text tower, in tokens.

    Raises:
        InputError: when a prompt is too long.
    """
    for word in PLACEHOLDERS:
        slot = _token_of(tokenizer, word)
        if slot is None or bool((tokenizer(texts) == slot).any()):
            continue
        prompts = [_compose(text, word, n_ctx, position) for text in texts]
        ids = tokenize(tokenizer, prompts, context_length)
        slots = ids == slot
        if bool((slots.sum(1) == n_ctx).all()):
            return PromptTokens(ids, slots)
    raise InputError(
        "no placeholder is left for the context vectors: the texts use every one-letter word of "
        f"{', '.join(PLACEHOLDERS)}, or the tokenizer joins them; rename a class"
    )


def word_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the token ids of the words of a text, without start, end and padding."""
    special = set(tokenizer([""])[0].tolist())
    return [i for i in tokenizer([text])[0].tolist() if i not in special]


@contextlib.contextmanager
def replaced_embeddings(
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


def _token_of(tokenizer: Tokenizer, word: str) -> int | None:
    alone, many = word_ids(tokenizer, word), word_ids(tokenizer, f"{word} {word}.")
    return alone[0] if len(alone) == 1 and many[:2] == alone * 2 else None


def _compose(text: str, word: str, n_ctx: int, position: Position) -> str:
    if position == "end":
        return " ".join([word] * n_ctx + [text])
    before = n_ctx // 2 if position == "middle" else 0
    name, stop = (text[:-1], ".") if text.endswith(".") else (text, "")
    return " ".join([word] * before + [name] + [word] * (n_ctx - before)) + stop
