"""How metrics are found: the files of metrics/, entry points, a user's own file."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from clip_adapt.errors import InputError, nearest
from clip_adapt.evaluation import metrics
from clip_adapt.evaluation.metric import Metric

GROUP = "clip_adapt.metrics"


@functools.cache
def list_shipped() -> tuple[Metric, ...]:
    """Return the metrics that every classifier is measured by, in the order of their files."""
    names = sorted(module.name for module in pkgutil.iter_modules(metrics.__path__))
    modules = [importlib.import_module(f"{metrics.__name__}.{name}") for name in names]
    return tuple(metric for module in modules for metric in _list_metrics(module))


def find_metrics(names: Sequence[str] | str | None) -> tuple[Metric, ...]:
    """Return the metrics that ``metrics=`` asks for besides those that ship.

    Args:
        names: paths of a user's own files, names of installed entry points; None is none.

    Raises:
        InputError: when one is not there, or two go by the same name.
    """
    given = [names] if isinstance(names, str) else names or []
    if not given:
        return ()
    found = tuple(metric for name in given for metric in _find(name))
    counts = Counter(metric.name for metric in (*list_shipped(), *found))
    for name in (name for name, count in counts.items() if count > 1):
        raise InputError(f"metrics={', '.join(given)}: there is another metric called {name!r}")
    return found


def _find(name: str) -> list[Metric]:
    if name.endswith(".py"):
        return _require_some(_list_metrics(_import_file(Path(name).expanduser())), name)
    for entry in _list_entry_points():
        if entry.name == name:
            found = entry.load()
            return _require_some([found] if isinstance(found, Metric) else [], name)
    if name in (metric.name for metric in list_shipped()):
        raise InputError(f"metrics={name}: every run is measured by {name}, so leave it out")
    known = [entry.name for entry in _list_entry_points()]
    raise InputError(
        f"unknown metric {name!r}{nearest(name, known)} Installed: {', '.join(known) or 'none'}; "
        "or give the path of your own metric.py."
    )


def _list_metrics(module: ModuleType) -> list[Metric]:
    return [value for value in vars(module).values() if isinstance(value, Metric)]


def _require_some(found: list[Metric], name: str) -> list[Metric]:
    if not found:
        raise InputError(f"{name} must define at least one Metric")
    return found


def _list_entry_points() -> list[EntryPoint]:
    return list(entry_points(group=GROUP))


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"metric file {path} does not exist (looked at {path.absolute()})")
    name = f"clip_adapt_user_metric_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"metric file {path} fails on import: {error!r}") from error
    return module
