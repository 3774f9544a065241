"""Prompts of different classes must be different to the text tower, whatever its tokenizer does."""

from __future__ import annotations

import logging
from collections import defaultdict

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.data.task import Task, quote_names
from clip_adapt.errors import InputError

log = logging.getLogger(__name__)

Tokens = frozenset[tuple[int, ...]]


def require_different_prompts(backbone: Backbone, task: Task) -> None:
    """Refuse classes all of whose prompts have the same tokens, and say where some have.

    A tokenizer makes texts alike in its own ways: it knows no capitals or no punctuation, has one
    token for all characters that it does not know, or cuts what is too long.

    Raises:
        InputError: with two such classes, and what to do.
    """
    texts = task.texts()
    tokens = iter(_tokenize(backbone, [text for of_class in texts for text in of_class]))
    sets = [frozenset(next(tokens) for _ in of_class) for of_class in texts]
    owner: dict[Tokens, int] = {}
    for label, prompts in enumerate(sets):
        other = owner.setdefault(prompts, label)
        if other != label:
            _refuse(backbone, task, other, label)
    names = [frozenset([row]) for row in _tokenize(backbone, list(task.classes))]
    shared = _find_shared([a | b for a, b in zip(sets, names, strict=True)])
    for pair in shared[:1]:
        log.warning(
            "the classes %s share a prompt: to the tokenizer of %s it is the same text for both%s",
            quote_names([task.classes[label] for label in pair]),
            backbone.card.name,
            f" ({len(shared)} pairs of classes in all)" if len(shared) > 1 else "",
        )


def _tokenize(backbone: Backbone, texts: list[str]) -> list[tuple[int, ...]]:
    if not texts:
        return []
    ids = backbone.tokenizer(texts, context_length=backbone.context_length)  # (N, L)
    return [tuple(row) for row in ids.tolist()]


def _refuse(backbone: Backbone, task: Task, one: int, other: int) -> None:
    first, second = (task.texts()[label][0] for label in (one, other))
    raise InputError(
        f"the classes {quote_names([task.classes[one], task.classes[other]])} are the same text to "
        f"the tokenizer of {backbone.card.name}: it gives {quote_names([first, second])} the same "
        "tokens, so that no image can be told to be the one or the other. Give one of them "
        "another spoken name: dataset.classes='{FOLDER: NAME, ...}', or another name in classes="
    )


def _find_shared(sets: list[Tokens]) -> list[tuple[int, int]]:
    # Pairs of classes of which one prompt is the same.
    of_row: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for label, prompts in enumerate(sets):
        for row in prompts:
            of_row[row].append(label)
    return sorted({(labels[0], label) for labels in of_row.values() for label in labels[1:]})
