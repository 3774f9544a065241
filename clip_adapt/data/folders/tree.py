"""A folder as its images lie in it: what can be used, however deep, and what is passed over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from clip_adapt.data.decoding import SUFFIXES
from clip_adapt.data.inventory import list_counts
from clip_adapt.errors import InputError
from clip_adapt.system.reading import list_folder
from clip_adapt.system.run_files import CONFIG, DELTA, METRICS, RESULTS, SUMMARY

# What systems put beside a user's files. Some of it holds small copies of his pictures.
SYSTEM = frozenset(
    {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
)
BY_NAME = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db"})  # the suffix says nothing of them
BROKEN = "broken links"
OWN = "folders of runs"  # what we wrote ourselves into a user's folder: no pictures of his
# The files by which a folder is known to hold a run, a delta, a sweep.
WRITTEN = (frozenset({METRICS, CONFIG}), frozenset({DELTA}), frozenset({RESULTS, SUMMARY}))


@dataclass
class Tree:
    """What lies in a folder and in all folders below it.

    Attributes:
        images: files that can be images by their suffix, in the order of their paths.
        ignored: how many other files there are, by suffix or file name.
        below: those folders directly in it from which images come.
    """

    images: list[Path] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    below: list[str] = field(default_factory=list)

    def describe_ignored(self) -> str:
        """Return what a folder without images holds, in words."""
        return list_counts(self.ignored) or "empty"


def list_subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, without hidden ones and those that a system makes.

    Raises:
        InputError: when it cannot be looked into.
    """
    return [p for p in list_folder(folder) if os.path.isdir(p) and not _is_passed_over(p.name)]


def look_into(folder: Path) -> Tree:
    """Return the files that lie in a folder itself, as images and others.

    Raises:
        InputError: when it cannot be looked into.
    """
    tree = Tree()
    for entry in _scan(folder):
        if not _is_folder(entry):
            _add_file(tree, entry, SUFFIXES)
    return tree


def walk_folder(folder: Path, suffixes: Collection[str] = SUFFIXES) -> Tree:
    """Return what lies in a folder and below it; links to folders are followed, each folder once.

    A link that leads to a folder above this one is left out: what lies there is of other classes.

    Args:
        folder: the folder.
        suffixes: of what is taken for an image.

    Raises:
        InputError: when a folder cannot be looked into.
    """
    tree, place = Tree(), folder.resolve()
    seen = {_identify(above) for above in (place, *place.parents)}
    for entry in _scan_foreign(folder, tree):
        before = len(tree.images)
        _visit(entry, tree, seen, suffixes)
        if _is_folder(entry) and len(tree.images) > before:
            tree.below.append(entry.name)
    return tree


def _visit(
    entry: os.DirEntry[str], tree: Tree, seen: set[tuple[int, int]], suffixes: Collection[str]
) -> None:
    if not _is_folder(entry):
        _add_file(tree, entry, suffixes)
        return
    if _is_passed_over(entry.name):
        return
    folder = Path(entry.path)
    known = _identify(folder)
    if known not in seen:
        seen.add(known)
        for inner in _scan_foreign(folder, tree):
            _visit(inner, tree, seen, suffixes)


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"the folder {folder} cannot be read: {reason}") from error
    yield from found


def _scan_foreign(folder: Path, tree: Tree) -> list[os.DirEntry[str]]:
    # What lies in a folder, unless it is one of a run, a delta or a sweep: that is counted.
    entries = list(_scan(folder))
    names = {entry.name for entry in entries}
    if not any(files <= names for files in WRITTEN):
        return entries
    tree.ignored[OWN] += 1
    return []


def _add_file(tree: Tree, entry: os.DirEntry[str], suffixes: Collection[str]) -> None:
    suffix = os.path.splitext(entry.name)[1].lower()
    if not os.path.isfile(entry.path):
        tree.ignored[BROKEN if entry.is_symlink() else "special files"] += 1
    elif suffix in suffixes and entry.name[0] != ".":
        tree.images.append(Path(entry.path))
    else:
        tree.ignored[name_kind(entry.name)] += 1


def name_kind(name: str) -> str:
    """Return what a file that is no image is counted as: its suffix, or its name."""
    suffix = os.path.splitext(name)[1].lower()
    if name[0] == ".":  # .DS_Store is one kind; of ._1.jpg there may be as many as of images
        return f"hidden {suffix}" if suffix else name
    if name.lower() in BY_NAME:
        return name
    return suffix or "without a suffix"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # A link that leads to itself raises where an entry is asked.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _is_passed_over(name: str) -> bool:
    return name[0] == "." or name.lower() in SYSTEM


def _identify(folder: Path) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino
