"""Words as they are typed, and what they mean: a list, a map, a number, or just text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import yaml

from clip_adapt.config.plain_yaml import TypedText, load_plain, load_words


def make_plain(value: Any) -> Any:
    """Return a value of Python's own types: NumPy's numbers and arrays and paths have others."""
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {make_plain(k): make_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(make_plain, value)) if type(value) in (list, tuple) else list(value)
    return value


def parse(text: str) -> Any:
    """Read one value as YAML, the way the configuration files are read; else it is plain text.

    A list whose items YAML cannot read unquoted (``[a photo of {}, art of {}]``) is split at its
    commas.
    """
    return resolve(parse_words(text))


def parse_words(text: str) -> Any:
    """Read one value as ``parse`` does, what is typed in a list or a map as it is typed there."""
    try:
        value = load_words(f"value: {text}")
    except (ValueError, yaml.YAMLError):
        return _split_at_commas(text[1:-1]) if is_bracketed(text := text.strip()) else str(text)
    return value["value"] if isinstance(value, dict) and set(value) == {"value"} else str(text)


def parse_list(text: str) -> Any:
    """Read a list, typed as ``[a, b]`` or as ``a, b``; else what ``parse_words`` gives.

    What YAML takes for a map in it (``[cat: big, dog]``) is text.
    """
    text = text.strip()
    if not is_bracketed(text) and "," not in text:
        return parse_words(text)
    inner = text[1:-1] if is_bracketed(text) else text
    items = parse_words(f"[{inner}]")
    is_flat = isinstance(items, list) and not any(isinstance(item, Mapping) for item in items)
    return items if is_flat or set("[{") & set(inner) else _split_at_commas(inner)


def resolve(value: Any) -> Any:
    """Return a value with what it means to YAML in place of every word as it was typed."""
    if isinstance(value, TypedText):
        try:
            return load_plain(str(value))
        except (ValueError, yaml.YAMLError):
            return str(value)
    if isinstance(value, dict):
        return {resolve(k): resolve(v) for k, v in value.items()}
    if isinstance(value, list):
        return [resolve(v) for v in value]
    return value


def is_bracketed(text: str) -> bool:
    """Tell whether a text is typed as a list, ``[a, b]``."""
    return text.startswith("[") and text.endswith("]")


def _split_at_commas(text: str) -> list[str]:
    return [item.strip().strip("'\"") for item in text.split(",")]
