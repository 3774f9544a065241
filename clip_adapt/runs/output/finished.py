"""Finished runs: whether a folder holds one, and whether it is the one that is asked for."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_adapt.config import yamls
from clip_adapt.config.run_options import NEUTRAL
from clip_adapt.errors import InputError
from clip_adapt.runs.output import replacement
from clip_adapt.system import locks
from clip_adapt.system.reading import read_json
from clip_adapt.system.run_files import CONFIG, FINISHED, METRICS

if TYPE_CHECKING:
    from clip_adapt.runs.configuration import Config


def is_finished(folder: Path) -> bool:
    """Tell whether a folder holds a finished run; one that was killed at its end is finished.

    One whose numbers are damaged is not: it is made anew.
    """
    repair_folder(folder)
    if not ((folder / METRICS).is_file() and (folder / CONFIG).is_file()):
        return False
    try:
        return bool(read_metrics(folder))
    except InputError:
        return False


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the numbers of a finished run.

    Raises:
        InputError: when they are damaged.
    """
    held = read_json(folder / METRICS)
    parts = [held.get(kind) if isinstance(held, dict) else None for kind in ("test", "zero_shot")]
    if not all(isinstance(part, dict) and all(map(_is_measured, part.values())) for part in parts):
        raise InputError(f"{folder / METRICS} holds no metrics of a run. Remove it and run again.")
    return dict(held)


def _is_measured(found: Any) -> bool:
    # A value with its interval; None where there is none.
    if found is None:
        return True
    return isinstance(found, dict) and isinstance(found.get("value"), int | float | None)


def find_differences(config: Config, folder: Path) -> list[str]:
    """Return what a finished run's configuration has otherwise, as ``lr: 0.002, now 0.01``."""
    stored = yamls.read_yaml(folder / "config.yaml")
    of_name = {candidate.method.name: candidate for candidate in config.candidates}
    config = of_name.get(str((stored.get("method") or {}).get("name")), config)
    # Through YAML, as the file went: tuples become lists, keys text.
    resolved = yamls.parse_yaml(config.to_yaml())
    now, then = _flatten(resolved), _flatten(stored)
    changed = [
        f"{key}: {then.get(key, 'nothing')}, now {now.get(key, 'nothing')}"
        for key in sorted({*now, *then})
        if now.get(key) != then.get(key) and key.partition(".")[0] not in NEUTRAL
    ]
    return changed or _find_reordered(resolved, stored)


def _find_reordered(now: Any, then: Any, name: str = "") -> list[str]:
    # The order of a card's classes is the order of the labels.
    if not isinstance(now, dict) or not isinstance(then, dict):
        return []
    if name and list(now) != list(then) and now.keys() == then.keys():
        return [f"{name}: {', '.join(map(str, then))}, now {', '.join(map(str, now))}"]
    return [
        line
        for key in now.keys() & then.keys()
        for line in _find_reordered(now[key], then[key], f"{name}.{key}".lstrip("."))
    ]


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def repair_folder(folder: Path) -> None:
    """Finish what a run that was killed at its very end has left undone; else do nothing."""
    if (folder / FINISHED).is_dir():
        # Who holds the folder does it; where nothing can be written, the run is not finished.
        with contextlib.suppress(InputError), lock_folder(folder):
            replacement.finish_replacing(folder)


def repair_folders(top: Path) -> None:
    """Do so with every run in and below a folder."""
    for left in list(top.rglob(FINISHED)):
        repair_folder(left.parent)


def lock_folder(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Return the lock of a run's folder."""
    return locks.hold_lock(folder / locks.NAME, f"the output folder {folder}")
