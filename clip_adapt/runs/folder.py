"""The folder of a run: where it lies, who holds it, and that it is one run's as a whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from clip_adapt.errors import InputError
from clip_adapt.runs import replacement
from clip_adapt.runs.configuration import Config
from clip_adapt.system import locks
from clip_adapt.system.files import require_writable
from clip_adapt.system.reading import make_path
from clip_adapt.system.run_files import FINISHED
from clip_adapt.system.text.names import make_file_name


def choose_folder(config: Config) -> Path:
    """Return where a run's files go."""
    o = config.options
    if o.output is not None:
        return make_path(o.output)
    model = config.model.name.replace("/", "-")
    name = f"{config.method.name}-{model}-{config.objective.name_draw(o)}-seed{o.seed}"
    if o.protocol != "few_shot":
        name += f"-{o.protocol}"
    return Path("runs") / make_file_name(config.dataset.name) / make_file_name(name)


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Hold a run's folder; a run that fails leaves it as it was, but for its checkpoint.

    Raises:
        InputError: when another process holds the folder, or it cannot be written.
    """
    new = [place for place in (folder, *folder.parents) if not os.path.exists(place)]
    try:
        with _lock(folder):
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


def repair_folder(folder: Path) -> None:
    """Finish what a run that was killed at its very end has left undone; else do nothing."""
    if (folder / FINISHED).is_dir():
        # Who holds the folder does it; where nothing can be written, the run is not finished.
        with contextlib.suppress(InputError), _lock(folder):
            replacement.finish_replacing(folder)


def repair_folders(top: Path) -> None:
    """Do so with every run in and below a folder."""
    for left in list(top.rglob(FINISHED)):
        repair_folder(left.parent)


def _lock(folder: Path) -> contextlib.AbstractContextManager[None]:
    return locks.hold_lock(folder / locks.NAME, f"the output folder {folder}")
