"""From what a list says of an image to its file, which lies in one folder."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from clip_adapt.data.decoding import SUFFIXES
from clip_adapt.errors import InputError, list_lines

SHOWN = 20  # images that do not exist, in a message
LOOKED_INTO = 2000  # folders that are searched for an image that is not where it should be
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)
_WINDOWS = re.compile(r"[a-z]:[\\/]|\\\\", re.IGNORECASE)


class ImageFinder:
    """Finds the images that a list names.

    Args:
        where: the list, for messages.
        folder: what its paths are relative to, and what they do not leave; absolute.
    """

    def __init__(self, where: Path, folder: Path) -> None:
        self.where, self.folder = where, folder
        self._listings: dict[str, dict[str, list[str]]] = {}

    def find_path(self, given: str, line: int) -> str:
        """Return the path of an image, whether or not it exists.

        A name without suffix stands for the one image of that name (``ISIC_0000000``), and what is
        no path here is taken as one of Windows.

        Raises:
            InputError: with the line, when it is an address or leaves the folder.
        """
        self._refuse_elsewhere(given, line)
        path = os.path.normpath(os.path.join(self.folder, given))
        if not os.path.isfile(path):
            path = os.path.normpath(os.path.join(self.folder, given.replace("\\", "/")))
        if not path.startswith(os.path.join(self.folder, "")):
            raise InputError(
                f"{self.where}, line {line}: {given!r} leaves the folder {self.folder}. If the "
                f"images lie elsewhere, say where: dataset.root=FOLDER{self._suggest_tail(given)}"
            )
        return path if os.path.isfile(path) else self._find_by_name(path, line) or path

    def refuse_missing(self, lines: Mapping[str, int]) -> None:
        """Refuse images that do not exist; ``lines`` holds the line of each path.

        Raises:
            InputError: listing them.
        """
        gone = {path: line for path, line in lines.items() if not os.path.isfile(path)}
        if not gone:
            return
        shown = [f"line {n}: {path}" for path, n in gone.items()]
        for index, path in enumerate(islice(gone, SHOWN)):
            shown[index] += self._describe_near(path)
        first = os.path.relpath(next(iter(gone)), self.folder)
        raise InputError(
            f"{len(gone)} images of {self.where} do not exist:\n{list_lines(shown, SHOWN)}"
            f"{self._suggest_root(first) or self._suggest_tail(first)}"
        )

    def _refuse_elsewhere(self, given: str, line: int) -> None:
        if _ADDRESS.match(given):
            raise InputError(
                f"{self.where}, line {line}: {given[:100]!r} is an address, and images are read "
                "from files. Download them, and write their paths."
            )
        if _WINDOWS.match(given) and not os.path.isabs(given):
            raise InputError(
                f"{self.where}, line {line}: {given!r} is a path of Windows, and this machine has "
                "no such drive. Write paths relative to the table, or to dataset.root=FOLDER."
                f"{self._suggest_tail(given)}"
            )

    def _find_by_name(self, path: str, line: int) -> str | None:
        # The one image that is meant, where it is written without its suffix or otherwise composed.
        folder, name = os.path.split(path)
        found = self._list_images(folder).get(_compose(name), [])
        if len(found) > 1:
            raise InputError(
                f"{self.where}, line {line}: {name!r} can be {' or '.join(found)}. Write the name "
                "with its suffix."
            )
        return os.path.join(folder, found[0]) if found else None

    def _list_images(self, folder: str) -> dict[str, list[str]]:
        # The images of a folder by their names, with and without suffix.
        if folder not in self._listings:
            index = self._listings[folder] = defaultdict(list)
            for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
                bare, suffix = os.path.splitext(name)
                if suffix.lower() in SUFFIXES:
                    index[_compose(bare)].append(name)
                    index[_compose(name)].append(name)
        return self._listings[folder]

    def _describe_near(self, path: str) -> str:
        # Another image of its name, but for the suffix or the case.
        folder, name = os.path.split(path)
        names = {name for names in self._list_images(folder).values() for name in names}
        near = sorted(other for other in names if _simplify(other) == _simplify(name))
        return f" (there is {near[0]})" if near else ""

    def _suggest_root(self, relative: str) -> str:
        # The folder below from which such a path leads to an image.
        for folder, below, _ in islice(os.walk(self.folder), LOOKED_INTO):
            below.sort()
            path = os.path.join(folder, relative)
            if os.path.basename(path) in self._list_images(os.path.dirname(path)):
                return f"\n{relative} lies in {folder}: say so with dataset.root={folder}"
        return ""

    def _suggest_tail(self, given: str) -> str:
        # The end of a path, of another folder or machine, that leads to an image from here.
        parts = given.replace("\\", "/").split("/")
        for start in range(1, len(parts)):
            tail = "/".join(parts[start:])
            if os.path.isfile(os.path.join(self.folder, tail)):
                return f"\n{tail} lies in {self.folder}: take what stands before it off the paths"
        return ""


def _compose(name: str) -> str:
    # One accented letter may be written as one character or as two.
    return unicodedata.normalize("NFC", name)


def _simplify(name: str) -> str:
    return os.path.splitext(_compose(name))[0].casefold()
