"""How a method is found by its name: the files of methods/, entry points, a user's own file."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from clip_adapt.errors import InputError, nearest
from clip_adapt.method.contract import Method
from clip_adapt.system.files import resource


@dataclass(frozen=True)
class Found:
    """A method's class with the name it goes by; ``file`` when it came from a user's own file."""

    name: str
    cls: type[Method]
    file: Path | None = None


def names() -> list[str]:
    """Return the names of all methods: the files of methods/ and the installed entry points."""
    own = [p.stem for p in resource("methods").glob("*.py") if p.stem[0] != "_"]
    return sorted({*own, *(e.name for e in _entry_points())})


def find(name: str) -> Found:
    """Return the method of that name, or the one that a ``path/to/mine.py`` defines.

    Raises:
        InputError: when there is none, or when the file does not define exactly one.
    """
    if name.endswith(".py"):
        path = Path(name).expanduser()
        return Found(path.stem, _only_method(_import_file(path), name), path)
    if name not in names():
        known = ", ".join(names())
        raise InputError(
            f"unknown method {name!r}{nearest(name, names())} There is: {known}; "
            "or give the path of your own method.py."
        )
    for entry in _entry_points():
        if entry.name == name:
            return Found(name, entry.load())
    return Found(name, _only_method(importlib.import_module(f"clip_adapt.methods.{name}"), name))


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    return list(entry_points(group="clip_adapt.methods"))


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"method file {path} does not exist (looked at {path.absolute()})")
    name = f"clip_adapt_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"method file {path} fails on import: {error!r}") from error
    return module


def _only_method(module: ModuleType, name: str) -> type[Method]:
    found = [
        cls
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, Method) and cls.__module__ == module.__name__
    ]
    if len(found) != 1:
        classes = ", ".join(cls.__name__ for cls in found) or "none"
        raise InputError(f"{name} must define exactly one subclass of Method, not {classes}")
    return found[0]
