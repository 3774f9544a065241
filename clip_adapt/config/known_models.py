"""Where the backbones are that this user has trained on, by their fingerprints.

A delta may be anybody's, so it does not choose what is opened. It says which weights it needs by
their fingerprint, and where weights of that fingerprint are is what the user himself said when he
trained on them. Only his own notes count, also in a cache folder that others write to.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import asdict
from pathlib import Path

from clip_adapt.config import options
from clip_adapt.config.cards import ModelCard, list_cards
from clip_adapt.errors import InputError
from clip_adapt.system.files import choose_cache_folder, write_text
from clip_adapt.system.reading import make_path, read_json

_PLACES = ("architecture", "pretrained")


def remember_model(fingerprint: str, card: ModelCard) -> None:
    """Note where a backbone was loaded from, unless its card ships; that it fails stops nothing.

    Args:
        fingerprint: of its architecture and weights.
        card: what the user named.
    """
    if card.name in list_cards("model"):
        return
    places = {key: _make_absolute(getattr(card, key)) for key in _PLACES}
    note = json.dumps({**asdict(card), **places}, indent=1) + "\n"
    place = _locate_note(fingerprint)
    with contextlib.suppress(InputError, OSError, ValueError):
        if not place.is_file() or place.read_text(encoding="utf-8") != note:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_text(place, note)


def recall_model(fingerprint: str) -> ModelCard | None:
    """Return the card by which this user loaded a backbone of that fingerprint; None if never."""
    if re.fullmatch("[0-9a-f]{64}", fingerprint) is None:
        return None
    place = _locate_note(fingerprint)
    try:
        if hasattr(os, "geteuid") and os.lstat(place).st_uid != os.geteuid():
            return None
        held = read_json(place)
    except (InputError, OSError):
        return None
    if not isinstance(held, dict):
        return None
    checked, problems = options.validate(held, options.read_fields(ModelCard))
    if problems:
        return None
    named = [Path(checked[key]) for key in _PLACES if checked[key] is not None]
    gone = any(path.is_absolute() and not os.path.exists(path) for path in named)
    return None if gone else ModelCard(**checked)


def _locate_note(fingerprint: str) -> Path:
    return choose_cache_folder() / "models" / f"{fingerprint}.json"


def _make_absolute(text: str | None) -> str | None:
    here = text is not None and os.path.exists(make_path(text))
    return str(make_path(text).absolute()) if here and text is not None else text
