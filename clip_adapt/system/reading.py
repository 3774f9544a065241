"""Reading what somebody names or has written: paths, folders, text, JSON. Each refusal is one line.

A word of a command line or a value of a card may be anything, and so may a file; nothing of it is
used before it is looked at here.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from clip_adapt.errors import InputError

DEEPEST = 64  # lists and maps inside one another; ours and those of models are not ten deep


def make_path(text: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` filled in where there is such a home, and as it is where not.

    ``os.path`` asks about paths of any length; the methods of ``Path`` raise.

    Raises:
        InputError: when no path can be so, since it holds a NUL.
    """
    if "\0" in os.fspath(text):
        raise InputError(f"{os.fspath(text)!r} is no path: it holds a NUL")
    return Path(os.path.expanduser(text))


def refuse_devices(path: Path) -> None:
    """Refuse what is opened like a file and never ends: devices, pipes, sockets.

    Raises:
        InputError: when the path leads to one.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return  # reading says what is wrong
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path} is not a file: it is a device, a pipe or a socket")


def list_folder(folder: Path) -> list[Path]:
    """Return what lies in a folder, sorted.

    Raises:
        InputError: when it cannot be looked into.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be read: {_explain(error)}") from error


def read_text(path: Path) -> str:
    """Return the content of a text file (UTF-8).

    Raises:
        InputError: when it cannot be read, or is something else.
    """
    refuse_devices(path)
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {_explain(error)}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not text in UTF-8: byte 0x{error.object[error.start]:02x} at "
            f"{error.start}. It is damaged, or in another encoding"
        ) from error


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        InputError: when it cannot be read, is not JSON, or is nested too deep to be used.
    """
    return parse_json(read_text(path), str(path))


def parse_json(text: str, where: str) -> Any:
    """Return what a JSON text holds.

    Args:
        text: the JSON.
        where: what it stands in, for messages.

    Raises:
        InputError: when it is not JSON, or is nested too deep to be used.
    """
    try:
        held = json.loads(text)
    except RecursionError:
        raise _refuse_deep(where) from None
    except ValueError as error:  # a number of too many digits as well
        raise InputError(f"{where} is damaged: it is not JSON ({error})") from error
    if measure_depth(held) > DEEPEST:
        raise _refuse_deep(where)
    return held


def measure_depth(tree: Any) -> int:
    """Return how many lists and maps lie inside one another, 0 for a plain value."""
    depth, level = 0, [tree]
    while level := [node for node in level if isinstance(node, list | dict)]:
        depth += 1
        if depth > DEEPEST:
            break
        level = [v for node in level for v in (node if isinstance(node, list) else node.values())]
    return depth


def _refuse_deep(where: str) -> InputError:
    return InputError(f"{where} is nested over {DEEPEST} deep: this is damaged, or no file of ours")


def _explain(error: OSError) -> str:
    return error.strerror or str(error)
