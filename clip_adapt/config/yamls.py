"""Reading and writing YAML files, and the help texts that stand in their comments."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from clip_adapt.config.plain_yaml import dump_plain, load_plain, load_words
from clip_adapt.errors import InputError
from clip_adapt.system.reading import refuse_devices

# Said of every fault of grammar: the usual one is a text with a sign of YAML's in it.
QUOTES = ". A text with a colon, a hash or braces in it stands in quotes"
_KEY_WITH_HELP = re.compile(r"^(\s*)\"?([\w.]+)\"?:(?:\s+(.*?))?\s+#\s+(.*)$")


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        InputError: when the file cannot be read, is not YAML, or holds something else.
    """
    return _read(path, load_plain)


def read_words(path: Path) -> dict[str, Any]:
    """Return the mapping of a file whose values are checked by options, which say what they mean.

    Numbers, truth values and nulls come as they are typed there (``TypedText``): a class called
    ``no`` or ``007`` is called so.

    Raises:
        InputError: when the file cannot be read, is not YAML, or holds something else.
    """
    return _read(path, load_words)


def _read(path: Path, load: Callable[[str], Any]) -> dict[str, Any]:
    refuse_devices(path)
    try:
        content = load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        remedy = QUOTES if isinstance(error, yaml.error.MarkedYAMLError) else ""
        raise InputError(f"{path} is not valid YAML: {reason}{remedy}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no mapping: expected lines of the form key: value")
    return {str(key): value for key, value in content.items()}


def parse_yaml(text: str) -> dict[str, Any]:
    """Return the mapping that ``dump`` wrote."""
    content = load_plain(text)
    assert isinstance(content, dict), "dump writes a mapping"
    return {str(key): value for key, value in content.items()}


def dump_yaml(values: dict[str, Any]) -> str:
    """Return the mapping as YAML text, in its own order."""
    return dump_plain(values)


def read_help_texts(path: Path) -> dict[str, tuple[str, str]]:
    """Return, for each key with a comment behind it, its default and its help as written.

    Keys of a nested mapping carry their parents' names (``method.n_ctx``).
    """
    texts: dict[str, tuple[str, str]] = {}
    parent = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        opening = re.match(r"^(\w+):\s*$", line)
        parent = f"{opening[1]}." if opening else parent if line.startswith(" ") else ""
        match = _KEY_WITH_HELP.match(line)
        if match:
            texts[(parent if match[1] else "") + match[2]] = (match[3] or "", match[4])
    return texts


def read_opening_comment(path: Path) -> list[str]:
    """Return the comment lines at the head of a file, without their hashes."""
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").rstrip())
    return lines
