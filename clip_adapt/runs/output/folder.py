"""The folder of a run: where it lies, who holds it, and that it is one run's as a whole."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from clip_adapt.errors import InputError
from clip_adapt.runs.configuration import Config
from clip_adapt.runs.output import finished, replacement
from clip_adapt.runs.output.finished import lock_folder
from clip_adapt.system.files import require_writable
from clip_adapt.system.reading import make_path
from clip_adapt.system.text.names import make_file_name

MOST = 3  # differences that are named


def choose_folder(config: Config) -> Path:
    """Return where a run's files go: where no finished run of another configuration lies.

    Raises:
        InputError: when ``output`` is empty.
    """
    base = _name_folder(config)
    if config.options.output is not None:
        return base
    numbered = (base.with_name(f"{base.name}-{number}") for number in itertools.count(2))
    places = itertools.chain([base], numbered)
    return next(place for place in places if not _find_others(config, place))


def explain_folder(config: Config) -> str | None:
    """Return what to know of the place of a run's files; None when nothing else lies there."""
    base, chosen = _name_folder(config), choose_folder(config)
    changes = _find_others(config, base)
    if not changes:
        return None
    more = f" and {len(changes) - MOST} more" if len(changes) > MOST else ""
    held = f"{base} holds a finished run of another configuration ("
    held += f"{'; '.join(changes[:MOST])}{more})"
    return f"{held}: it is replaced" if chosen == base else f"{held}: this one goes to {chosen}"


def _name_folder(config: Config) -> Path:
    o = config.options
    if o.output is not None:
        # Of output=$UNSET nothing is left, and the files would fall into the working folder.
        if not str(o.output).strip():
            raise InputError("output= is empty: expected a folder; output=. is the one you are in")
        return make_path(o.output)
    model = config.model.name.replace("/", "-")
    name = f"{config.method.name}-{model}-{config.objective.name_draw(o)}-seed{o.seed}"
    if o.protocol != "few_shot":
        name += f"-{o.protocol}"
    return Path("runs") / make_file_name(config.dataset.name) / make_file_name(name)


def _find_others(config: Config, folder: Path) -> list[str]:
    # What a finished run in the folder has otherwise; of one that cannot be read nobody knows.
    if not finished.is_finished(folder):
        return []
    try:
        return finished.find_differences(config, folder)
    except InputError as error:
        return [str(error)]
    except UnicodeError:  # the run is refused for it
        return []


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Hold a run's folder; a run that fails leaves it as it was, but for its checkpoint.

    Raises:
        InputError: when another process holds the folder, or it cannot be written.
    """
    new = [place for place in (folder, *folder.parents) if not os.path.exists(place)]
    try:
        with lock_folder(folder):
            require_writable(folder)
            replacement.begin_run(folder)
            try:
                yield
            finally:
                # While the lock is held: afterwards the folder could be another process's.
                replacement.drop_unfinished(folder)
    except BaseException:
        for place in new:
            with contextlib.suppress(OSError):
                place.rmdir()
        raise
