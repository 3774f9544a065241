"""How a method is found by its name: the files of methods/, entry points, a user's own file."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from clip_adapt.errors import InputError
from clip_adapt.method.contract import Method
from clip_adapt.system.plugins import Kind, find_plugin, list_names

KIND = Kind("method", ("methods",), "clip_adapt.methods", "clip_adapt.methods")


@dataclass(frozen=True)
class Found:
    """A method's class with the name it goes by; ``file`` when it came from a user's own file."""

    name: str
    cls: type[Method]
    file: Path | None = None


def names() -> list[str]:
    """Return the names of all methods: the files of methods/ and the installed entry points."""
    return list_names(KIND)


def find(name: str) -> Found:
    """Return the method of that name, or the one that a ``path/to/mine.py`` defines.

    Raises:
        InputError: when there is none, or when the file does not define exactly one.
    """
    plugin = find_plugin(name, KIND)
    found = plugin.content
    cls = _only_method(found, name) if isinstance(found, ModuleType) else found
    return Found(plugin.name, cls, plugin.file)


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
