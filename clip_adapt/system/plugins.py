"""What is found by name: the files of a folder of ours, entry points, a user's own file.

Methods and sources are such kinds of things; a kind is a folder of our package, a group of entry
points, and a word for messages.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from clip_adapt.errors import InputError, explain_unknown, nearest
from clip_adapt.system.files import locate_resource
from clip_adapt.system.reading import make_path
from clip_adapt.system.stamps import Stamp, read_stamp


@dataclass(frozen=True)
class Kind:
    """A kind of things that are found by name.

    Attributes:
        word: what one is called in messages, ``method``.
        folder: where ours lie, from the package or the top of a checkout: ``("methods",)``.
        package: what ours are imported from, ``clip_adapt.methods``.
        group: of the entry points by which installed packages add theirs.
    """

    word: str
    folder: tuple[str, ...]
    package: str
    group: str


@dataclass(frozen=True)
class Plugin:
    """What a name stands for: a module, or the object that an entry point names.

    ``file`` is the user's own file that it came from, ``installed`` says that an entry point gave
    it.
    """

    name: str
    content: Any
    file: Path | None = None
    installed: bool = False


def list_names(kind: Kind) -> list[str]:
    """Return every name of a kind: those of our files and of the installed entry points."""
    own = [p.stem for p in locate_resource(*kind.folder).glob("*.py") if p.stem[0] != "_"]
    return sorted({*own, *(entry.name for entry in list_entry_points(kind.group))})


def list_entry_points(group: str) -> list[EntryPoint]:
    """Return the installed entry points of a group; the packages are looked through once."""
    return list(_read_entry_points(group, tuple(sys.path)))


def find_plugin(name: str, kind: Kind, others: Sequence[str] = ()) -> Plugin:
    """Return what a name stands for, or the module of a ``path/to/mine.py``, which is run.

    Call this with what the user named himself; ``find_installed`` is for names out of files.

    Args:
        name: what is looked for.
        kind: of the thing.
        others: names that are found elsewhere, for the message.

    Raises:
        InputError: when there is none of that name, or when it fails on import.
    """
    if name.endswith(".py"):
        path = make_path(name)
        return Plugin(path.stem, import_file(path, kind.word), path)
    known = sorted({*list_names(kind), *others})
    if name not in known:
        raise InputError(explain_unknown_name(name, kind, known))
    return find_installed(name, kind)


def explain_unknown_name(name: str, kind: Kind, known: Sequence[str]) -> str:
    """Return one line: what is unknown, the nearest name, all names, and the way to one's own."""
    return (
        f"unknown {kind.word} {name!r}{nearest(name, known)} There is: {', '.join(known)}; "
        f"or give the path of your own {kind.word}.py."
    )


def find_installed(name: str, kind: Kind) -> Plugin:
    """Return what an installed name stands for; a path is never imported, whoever wrote it.

    An entry point comes before a file of ours of the same name.

    Raises:
        InputError: when none of that name is installed, or when it fails on import.
    """
    if name not in list_names(kind):
        raise InputError(explain_unknown(kind.word, str(name), list_names(kind)))
    for entry in list_entry_points(kind.group):
        if entry.name == name:
            return Plugin(name, _load_entry(entry, kind.word), installed=True)
    return Plugin(name, importlib.import_module(f"{kind.package}.{name}"))


def import_file(path: Path, word: str) -> ModuleType:
    """Return the module of a user's file; it is run once, and again only when it has changed.

    Call this with what the user named himself, never with a path that a file of data holds.

    Args:
        path: the file.
        word: what it defines, for messages.

    Raises:
        InputError: when it does not exist or fails.
    """
    if not os.path.isfile(path):
        raise InputError(f"{word} file {path} does not exist (looked at {path.absolute()})")
    resolved = path.resolve()
    try:
        return _run_once(resolved, read_stamp(resolved))
    except Exception as error:
        raise InputError(f"{word} file {path} fails on import: {error!r}") from error


@functools.cache
def _run_once(path: Path, stamp: Stamp) -> ModuleType:
    # Two files of one name in different folders must not replace each other.
    name = f"clip_adapt_user_{path.stem}_{hashlib.sha256(bytes(path)).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@functools.cache
def _read_entry_points(group: str, searched: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def _load_entry(entry: EntryPoint, word: str) -> Any:
    try:
        return entry.load()
    except Exception as error:
        raise InputError(
            f"the installed {word} {entry.name!r} ({entry.value}) fails on import: {error!r}"
        ) from error
