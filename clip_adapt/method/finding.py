"""How a method is found by its name: the files of methods/, entry points, a user's own file.

A YAML of configs/method may stand for a method of its own by naming the file that it configures
(``file: coop``): a variant of a paper is then its options and its recipe, and no code.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from clip_adapt.config import cards, yamls
from clip_adapt.errors import InputError
from clip_adapt.method.contract import Method
from clip_adapt.system.plugins import Plugin, find_installed, find_plugin, list_names

KIND = cards.METHODS


@dataclass(frozen=True)
class Found:
    """A method's class with the name it goes by.

    Attributes:
        name: of the method.
        cls: the class.
        file: the user's own file that it came from; None for one that is installed.
        card: the YAML with its recipe and options; None when there is none.
        base: the method that the card configures, when that has another name.
    """

    name: str
    cls: type[Method]
    file: Path | None = None
    card: Path | None = None
    base: str | None = None


def list_methods() -> list[str]:
    """Return the names of all methods: files of methods/, entry points, and YAMLs of variants."""
    return sorted({*list_names(KIND), *cards.list_cards("method")})


def find_method(name: str) -> Found:
    """Return the method of that name, or the one that a ``path/to/mine.py`` defines.

    Raises:
        InputError: when there is none, when the file does not define exactly one, or when a
            variant's YAML names no file.
    """
    if _is_variant(name):
        return _find_variant(name)
    return _describe(find_plugin(name, KIND, others=cards.list_cards("method")), name)


def find_installed_method(name: str) -> Found:
    """Return the installed method of that name: for names out of files, which run no code.

    Raises:
        InputError: when none of that name is installed.
    """
    return _find_variant(name) if _is_variant(name) else _describe(find_installed(name, KIND), name)


def _is_variant(name: str) -> bool:
    return name in cards.list_cards("method") and name not in list_names(KIND)


def _describe(plugin: Plugin, name: str) -> Found:
    cls = _find_class(plugin, name)
    return Found(plugin.name, cls, plugin.file, _find_card(plugin, cls))


def _find_variant(name: str) -> Found:
    card = cards.locate_card("method", name)
    base = yamls.read_yaml(card).get("file")
    if base not in list_names(KIND):
        known = ", ".join(list_names(KIND))
        raise InputError(
            f"{card} says file: {base}; expected the method that it configures, one of {known}"
        )
    return Found(name, find_installed_method(base).cls, card=card, base=base)


def _find_card(plugin: Plugin, cls: type[Method]) -> Path | None:
    # Of a file of ours in configs/method; of anybody else's beside the module of the method.
    if plugin.file is None and not plugin.installed:
        card = cards.locate_card("method", plugin.name)
    else:
        module = plugin.file or Path(str(sys.modules[cls.__module__].__file__))
        card = module.with_name(f"{plugin.name}.yaml")
    return card if card.is_file() else None


def _find_class(plugin: Plugin, name: str) -> type[Method]:
    content: Any = plugin.content
    if isinstance(content, ModuleType):
        return _require_one_method(content, name)
    if inspect.isclass(content) and issubclass(content, Method):
        return content
    raise InputError(f"the installed method {name!r} is {content!r}: expected a subclass of Method")


def _require_one_method(module: ModuleType, name: str) -> type[Method]:
    found = [
        cls
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, Method) and cls.__module__ == module.__name__
    ]
    if len(found) != 1:
        classes = ", ".join(cls.__name__ for cls in found) or "none"
        raise InputError(f"{name} must define exactly one subclass of Method, not {classes}")
    return found[0]
