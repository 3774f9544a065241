"""Names that become files and folders: a name is one part of a path, and leads nowhere else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from clip_adapt.system.text.showing import is_plain

_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?")
LONGEST = 200  # bytes; file systems take 255, and something may be put behind


def find_name_problem(text: str) -> str | None:
    """Return why a text cannot be the name of a folder, in words; None when it can be one."""
    if not text.strip():
        return "it is empty"
    if text in (".", "..") or "/" in text or "\\" in text:
        return "it leads to another folder"
    if not is_plain(text):
        return "it holds control characters or bytes that are not UTF-8"
    if len(text.encode()) > LONGEST:
        return f"it is longer than {LONGEST} bytes"
    return None


def sort_names(names: Iterable[str]) -> list[str]:
    """Return names by their value where all are numbers, 9 before 10, and as text otherwise.

    Digits of other kinds (a circled one, a superscript) are text.
    """
    found = sorted(names)
    return sorted(found, key=float) if all(map(_NUMBER.fullmatch, found)) else found


def make_file_name(text: str) -> str:
    """Return a text as the name of one file or folder: itself where it can be one.

    Otherwise what can stay of it, with a digest, so that two texts never have one name.
    """
    if find_name_problem(text) is None:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    kept = re.sub(r"[^\w+-]+", "-", text)[:40].strip("-")
    return f"{kept}-{digest}".lstrip("-")
