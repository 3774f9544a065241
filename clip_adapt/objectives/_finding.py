"""How an objective is found by its name: the files of objectives/, entry points, a user's file."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_adapt.config import cards, yamls
from clip_adapt.data.source import Gives
from clip_adapt.errors import InputError
from clip_adapt.objectives._contract import Objective
from clip_adapt.system.plugins import Kind, Plugin, find_installed, find_plugin, list_names

OBJECTIVES = Kind("objective", ("objectives",), "clip_adapt.objectives", "clip_adapt.objectives")


@dataclass(frozen=True)
class FoundObjective:
    """An objective with the name it goes by; ``file`` when it came from a user's own file."""

    name: str
    objective: Objective
    file: Path | None = None

    def read_recipe(self) -> dict[str, Any]:
        """Return the general options that it sets in place of a method's own recipe."""
        path = cards.locate_card("objective", self.name)
        if self.file is None and path.is_file():
            return yamls.read_yaml(path)
        return dict(self.objective.recipe or {})


def list_objectives() -> list[str]:
    """Return the names of all objectives that are installed."""
    return list_names(OBJECTIVES)


def find_objective(name: str) -> FoundObjective:
    """Return the objective of that name, or the one that a ``path/to/mine.py`` defines.

    Raises:
        InputError: when there is none, or when the file does not define exactly one.
    """
    plugin = find_plugin(name, OBJECTIVES)
    return FoundObjective(plugin.name, _make_objective(_find_class(plugin)), plugin.file)


def find_installed_objective(name: str) -> FoundObjective:
    """Return the installed objective of that name: for names out of files, which run no code.

    Raises:
        InputError: when none of that name is installed.
    """
    plugin = find_installed(name, OBJECTIVES)
    return FoundObjective(plugin.name, _make_objective(_find_class(plugin)))


def find_measuring_objective(gives: Gives) -> Objective:
    """Return the objective that measures deltas on data of this kind."""
    all_of_them = (find_installed_objective(name).objective for name in list_objectives())
    return next(o for o in all_of_them if o.measures_deltas and o.gives == gives)


@functools.cache
def _make_objective(cls: Any) -> Objective:
    # One object each, so that two configurations of one objective are equal.
    return cls()


def _find_class(plugin: Plugin) -> Any:
    if plugin.installed:  # an entry point names the class itself
        return plugin.content
    found = [
        cls
        for _, cls in inspect.getmembers(plugin.content, inspect.isclass)
        if issubclass(cls, Objective) and cls.__module__ == plugin.content.__name__
    ]
    if len(found) != 1:
        classes = ", ".join(cls.__name__ for cls in found) or "none"
        raise InputError(
            f"objective {plugin.name} must define exactly one subclass of Objective, not {classes}"
        )
    return found[0]
