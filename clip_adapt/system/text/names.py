"""Names that become files and folders: a name is one part of a path, and leads nowhere else."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable

from clip_adapt.system.text.showing import is_plain

_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?")
LONGEST = 200  # bytes; file systems take 255, and something may be put behind
WINDOWS = os.name == "nt"
LONGEST_ON_WINDOWS = 80  # of 260 for a whole path
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_DEVICE = re.compile(r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[0-9¹²³])", re.IGNORECASE)
_SIGNS = re.compile(r'[<>:"|?*]')


def find_name_problem(text: str, windows: bool = WINDOWS) -> str | None:
    """Return why a text cannot be the name of a folder, in words; None when it can be one.

    Args:
        text: the name.
        windows: whether the folder is one of Windows, which has names of its own.
    """
    if not text.strip():
        return "it is empty"
    if text in (".", "..") or "/" in text or "\\" in text:
        return "it leads to another folder"
    if not is_plain(text):
        return "it holds control characters or bytes that are not UTF-8"
    longest = LONGEST_ON_WINDOWS if windows else LONGEST
    if len(text.encode()) > longest:
        return f"it is longer than {longest} bytes"
    return _find_problem_on_windows(text) if windows else None


def _find_problem_on_windows(text: str) -> str | None:
    if _DEVICE.fullmatch(text.partition(".")[0].strip()):
        return "it is the name of a device on Windows"
    if text[-1] in ". ":
        return "Windows takes no dot and no space at the end of a name"
    if _SIGNS.search(text):
        return 'Windows takes none of < > : " | ? * in a name'
    return None


def sort_names(names: Iterable[str]) -> list[str]:
    """Return names by their value where all are numbers, 9 before 10, and as text otherwise.

    Digits of other kinds (a circled one, a superscript) are text.
    """
    found = sorted(names)
    return sorted(found, key=float) if all(map(_NUMBER.fullmatch, found)) else found


def make_file_name(text: str, windows: bool = WINDOWS) -> str:
    """Return a text as the name of one file or folder: itself where it can be one.

    Otherwise what can stay of it, with a digest, so that two texts never have one name.
    """
    if find_name_problem(text, windows) is None:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    kept = re.sub(r"[^\w+-]+", "-", text)[:40].strip("-")
    return f"{kept}-{digest}".lstrip("-")
