"""What the words of ``predict`` mean: files, folders, patterns, lists of files, standard input.

The images come out in one order on every machine: words as they are typed, what lies in a folder
or fits a pattern by its parts, in Unicode's order.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_adapt.data.decoding import SUFFIXES
from clip_adapt.data.folders.tree import list_counts, name_kind, walk_folder
from clip_adapt.errors import InputError
from clip_adapt.system.reading import make_path, refuse_devices

STDIN = "-"
VIDEOS = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".m2v", ".ts"),
        *(".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv"),
    }
)
_PATTERN = re.compile(r"[*?\[]")
# What begins with a mark of its encoding: an editor of Windows writes one, PowerShell's > as well.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


@dataclass(frozen=True)
class FoundImages:
    """The files that words mean.

    Attributes:
        paths: of the files, in order; one that is named twice stands there twice.
        ignored: how many files of folders and patterns were passed over, by what they are.
    """

    paths: list[str]
    ignored: Counter[str]

    def describe_ignored(self) -> str:
        """Return what was passed over as words, ``6 Thumbs.db, 1 .heic``; empty when nothing."""
        return list_counts(self.ignored)


def is_video(path: str) -> bool:
    """Tell whether a path is called as videos are."""
    return os.path.splitext(path)[1].lower() in VIDEOS


def find_images(
    words: Sequence[str], list_file: str | None = None, videos: bool = False
) -> FoundImages:
    """Return the files that words and a list of files mean; files need not exist.

    Args:
        words: a file, a folder (read with all in it), a pattern such as ``scans/**/*.jpg``, or
            ``-`` for paths on standard input. What exists by the very name is no pattern.
        list_file: a text file of paths, one a line, from the folder that one is in.
        videos: whether folders and patterns give videos, too.

    Raises:
        InputError: when a folder or the list cannot be read, or there is no file at all.
    """
    finder = _ImageFinder(SUFFIXES | VIDEOS if videos else SUFFIXES)
    paths = [path for word in words for path in finder.find(word)]
    if list_file is not None:
        paths += _read_list(make_path(list_file))
    if not paths:
        told = f"; ignored: {list_counts(finder.ignored)}" if finder.ignored else ""
        names = ", ".join(words)
        raise InputError(f"{names}: no images{told}. Images are {', '.join(sorted(SUFFIXES))}")
    return FoundImages(paths, finder.ignored)


class _ImageFinder:
    """Finds files and counts what is passed over."""

    def __init__(self, suffixes: frozenset[str]) -> None:
        self.suffixes = suffixes
        self.ignored: Counter[str] = Counter()

    def find(self, word: str) -> list[str]:
        if word == STDIN:
            return _read_stdin()
        path = make_path(word)
        if os.path.isdir(path):
            return self.walk(path)
        if os.path.lexists(path) or not _PATTERN.search(word):
            return [os.path.expanduser(word)]
        return self.match(path)

    def walk(self, folder: Path) -> list[str]:
        """Return the images in a folder and all below it; a folder is read once, links or not."""
        tree = walk_folder(folder, self.suffixes)
        self.ignored += tree.ignored
        return [str(path) for path in sorted(tree.images, key=_make_key)]

    def takes(self, path: Path) -> bool:
        """Tell whether a file is an image by its name, and count it when it is not."""
        taken = path.suffix.lower() in self.suffixes
        if not taken:
            self.ignored[name_kind(path.name)] += 1
        return taken

    def match(self, path: Path) -> list[str]:
        """Return the files that fit a pattern, and the images in folders that fit it."""
        base, parts = _split_pattern(path)
        if not parts:
            return self.walk(base)
        found = [p for p in _glob(base, parts) if not self._is_hidden(p, base, parts)]
        files = [p for p in found if not os.path.isdir(p)]
        if _PATTERN.search(Path(parts[-1]).suffix) or not Path(parts[-1]).suffix:
            files = [p for p in files if self.takes(p)]
        if "**" not in parts:  # which gives what lies in the folders by itself
            inside = [self.walk(p) for p in found if os.path.isdir(p)]
            files += [Path(text) for texts in inside for text in texts]
        if not found:
            raise InputError(
                f"{path}: there is no such file, and no file fits it as a pattern (looked in "
                f"{base.absolute()})"
            )
        return [str(p) for p in sorted(dict.fromkeys(files), key=_make_key)]

    def _is_hidden(self, path: Path, base: Path, parts: Sequence[str]) -> bool:
        if any(part.startswith(".") for part in parts):
            return False
        hidden = any(part.startswith(".") for part in path.relative_to(base).parts)
        if hidden:
            self.ignored[name_kind(path.name)] += 1
        return hidden


def _split_pattern(path: Path) -> tuple[Path, list[str]]:
    # The folder in front, by its very name even where that has brackets, and the pattern's parts.
    base, parts = Path(path.anchor), list(path.parts[bool(path.anchor) :])
    while parts and os.path.isdir(base / parts[0]):
        base /= parts.pop(0)
    parts = [part if part == "**" else re.sub(r"\*\*+", "*", part) for part in parts]
    while parts and parts[-1] == "**":
        parts.pop()
    return base, parts


def _glob(base: Path, parts: Sequence[str]) -> list[Path]:
    # pathlib's, which goes into no linked folder by **: a circle of links has no end.
    try:
        return list(base.glob("/".join(parts)))
    except (OSError, ValueError, NotImplementedError):  # a part that can be no name
        return []


def _make_key(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    # macOS writes accents as characters of their own, Linux as they came.
    return tuple(unicodedata.normalize("NFC", part) for part in path.parts), path.parts


def _read_stdin() -> list[str]:
    if sys.stdin is None or sys.stdin.closed:
        raise InputError("- stands for paths on standard input, and there is none")
    paths = split_paths(sys.stdin.buffer.read())
    if not paths:
        raise InputError("- stands for paths on standard input, and none came")
    return paths


def _read_list(path: Path) -> list[str]:
    refuse_devices(path)
    try:
        paths = split_paths(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"list={path}: {reason} (looked at {path.absolute()})") from error
    if not paths:
        raise InputError(f"list={path} holds no paths: one a line is expected")
    return paths


def split_paths(content: bytes) -> list[str]:
    """Return the paths of a list, one a line; ``find -print0`` ends each by a NUL instead.

    Names that are not UTF-8 are kept as Python keeps them, by surrogates.
    """
    mark = next((mark for mark in _MARKS if content.startswith(mark)), b"")
    encoding = _MARKS.get(mark, "utf-8")
    errors = "surrogateescape" if encoding == "utf-8" else "replace"
    text = content[len(mark) :].decode(encoding, errors)
    if "\0" in text:
        return [path for path in text.split("\0") if path]
    return [line for line in (line.rstrip("\r") for line in text.split("\n")) if line.strip()]
