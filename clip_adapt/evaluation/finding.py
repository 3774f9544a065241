"""How metrics are found: the files of metrics/, entry points, a user's own file."""

from __future__ import annotations

import functools
import importlib
from collections import Counter
from collections.abc import Sequence

from clip_adapt.errors import InputError, nearest
from clip_adapt.evaluation.metric import Metric
from clip_adapt.system import plugins
from clip_adapt.system.files import locate_resource
from clip_adapt.system.plugins import Kind

# A file of ours holds a family of metrics, whose names are their own.
KIND = Kind(
    word="metric",
    folder=("evaluation", "metrics"),
    package="clip_adapt.evaluation.metrics",
    group="clip_adapt.metrics",
)


@functools.cache
def list_shipped() -> tuple[Metric, ...]:
    """Return the metrics that every classifier is measured by, in the order of their files."""
    files = locate_resource(*KIND.folder).glob("*.py")
    names = sorted(path.stem for path in files if path.stem[0] != "_")
    modules = [importlib.import_module(f"{KIND.package}.{name}") for name in names]
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
    installed = [entry.name for entry in plugins.list_entry_points(KIND.group)]
    if name.endswith(".py") or name in installed:
        content = plugins.find_plugin(name, KIND).content
        found = [content] if isinstance(content, Metric) else _list_metrics(content)
        if not found:
            raise InputError(f"{name} must define at least one Metric")
        return found
    if name in (metric.name for metric in list_shipped()):
        raise InputError(f"metrics={name}: every run is measured by {name}, so leave it out")
    raise InputError(
        f"unknown metric {name!r}{nearest(name, installed)} Installed: "
        f"{', '.join(installed) or 'none'}; or give the path of your own metric.py."
    )


def _list_metrics(module: object) -> list[Metric]:
    return [value for value in vars(module).values() if isinstance(value, Metric)]
