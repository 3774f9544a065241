"""The words of a vocabulary that lie nearest to learned context vectors."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from clip_adapt.backbone.backbone import Backbone

CAVEAT = (
    "The words of the vocabulary whose embeddings lie nearest, with the Euclidean distance. They "
    "need not mean anything: a learned vector is not a word, and the nearest one can be far away. "
    "Words of the vocabulary lie {typical:.2f} from their own nearest neighbour (median)."
)
SAMPLE = 256  # vectors compared with the whole vocabulary at once
MARGIN = 4  # candidates looked at for one word that is shown: pieces of words are passed over


def find_nearest_words(
    backbone: Backbone, vectors: Tensor, count: int
) -> list[list[tuple[str, float]]]:
    """Return for every vector the nearest whole words with their Euclidean distances.

    Args:
        backbone: its token embedding and its tokenizer.
        vectors: (n, W).
        count: how many words per vector; fewer when fewer whole words are among the nearest tokens.
    """
    table = backbone.token_embedding.weight.float()
    found = []
    for part in vectors.to(table).split(SAMPLE):
        best = torch.cdist(part, table).topk(min(MARGIN * count + 8, len(table)), largest=False)
        for ids, lengths in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            words = (
                (decode_word(backbone.tokenizer, i), d) for i, d in zip(ids, lengths, strict=True)
            )
            found.append([(w, d) for w, d in words if w is not None][:count])
    return found


def describe_distances(backbone: Backbone) -> str:
    """Return how to read nearest words, with the distance that is usual between words."""
    table = backbone.token_embedding.weight.float()
    rows = torch.linspace(0, len(table) - 1, min(SAMPLE, len(table)), device=table.device).long()
    distances = torch.cdist(table[rows], table)
    distances[torch.arange(len(rows), device=table.device), rows] = torch.inf
    return CAVEAT.format(typical=float(distances.min(1).values.median()))


def decode_word(tokenizer: Any, token: int) -> str | None:
    """Return the word that a token stands for; None for a piece of a word or a special token."""
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is None:  # open_clip's own
        whole = tokenizer.decoder.get(token, "").endswith("</w>")
        return _clean_word(tokenizer.decode([token])) if whole else None
    piece = inner.convert_ids_to_tokens(token)
    if not piece or token in inner.all_special_ids or piece.startswith("##"):
        return None
    return _clean_word(inner.decode([token])) if piece.startswith(_find_start_mark(inner)) else None


@functools.cache
def _find_start_mark(tokenizer: Any) -> str:
    # SentencePiece and byte-level BPE mark the start of a word, WordPiece its inside with ##.
    vocabulary = tokenizer.get_vocab()
    return next((m for m in ("\u2581", "\u0120") if any(t.startswith(m) for t in vocabulary)), "")


def _clean_word(text: str) -> str | None:
    text = text.strip()
    return text if any(c.isalpha() for c in text) and text.isprintable() else None
