"""Which method and which backbone a delta's header means, without trusting the header.

A header may be anybody's. Of it come the name of a method that is installed, the name of a card
that ships, the image size, and a tag out of open_clip's own list; what is opened, fetched or run
beyond that is named by the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from clip_adapt.backbone.weights.plan import list_tags
from clip_adapt.config import cards
from clip_adapt.config.cards import ModelCard
from clip_adapt.config.known_models import recall_model
from clip_adapt.errors import InputError
from clip_adapt.method import finding
from clip_adapt.method.finding import Found


def find_method_of(header: Mapping[str, Any], file: Path, method_file: str | None) -> Found:
    """Return the method that a header names.

    Args:
        header: what it says of its method.
        file: the delta's, for messages.
        method_file: the .py that the caller gives; it is run.

    Raises:
        InputError: when the method is not installed, or was somebody's own and is not given.
    """
    if method_file is not None:
        return finding.find_method(method_file)
    name, own = header["name"], header.get("file")
    if own is not None:
        raise InputError(
            f"{file} was made by a method of someone's own, {own}: give that file with "
            f"method_file={own}. It is not run unasked."
        )
    try:
        return finding.find_installed_method(header.get("base", name))
    except InputError as error:
        raise InputError(f"{file} was made by a method that is not installed: {error}") from error


def ships(backbone: Mapping[str, Any]) -> bool:
    """Return whether a header's backbone is one whose card ships, so that its name is enough."""
    return backbone["name"] in cards.list_cards("model")


def choose_card(backbone: Mapping[str, Any], file: Path, model: str | None) -> ModelCard:
    """Return the card of the backbone that a delta sits on.

    Args:
        backbone: what the header says of it.
        file: the delta's, for messages.
        model: what the caller loads it by; None takes the card of ours that the header names, or
            what this user trained on when the weights had the header's fingerprint.

    Raises:
        InputError: when the caller gives nothing, and neither is there.
    """
    tag = backbone.get("pretrained")
    if model is None and not ships(backbone):
        recalled = recall_model(backbone["fingerprint"])
        if recalled is not None:
            return recalled
        raise InputError(
            f"{file} sits on the backbone {backbone['name']} (architecture "
            f"{backbone.get('architecture')}, weights {tag or 'beside it'}), whose card does not "
            "ship. Nothing is opened or fetched because a delta names it: say where that backbone "
            "is with model=NAME, card.yaml, FOLDER or hf-hub:OWNER/NAME"
        )
    size = {"image_size": backbone["image_size"]}
    chosen = cards.find_model(model or backbone["name"], size)
    known = chosen.pretrained is None and tag in list_tags(chosen.architecture)
    return replace(chosen, pretrained=tag) if known else chosen
