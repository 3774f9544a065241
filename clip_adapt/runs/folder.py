"""The folder of a run: where it lies, and that it is there as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from clip_adapt.runs.configuration import Config
from clip_adapt.system import locks
from clip_adapt.system.files import require_writable
from clip_adapt.system.reading import make_path


def choose_folder(config: Config) -> Path:
    """Return where a run's files go."""
    o = config.options
    if o.output is not None:
        return make_path(o.output)
    model = config.model.name.replace("/", "-")
    name = f"{config.method.name}-{model}-{config.objective.name_draw(o)}-seed{o.seed}"
    if o.protocol != "few_shot":
        name += f"-{o.protocol}"
    return Path("runs") / config.dataset.name / name


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Hold a run's folder; a run that fails leaves none behind, unless one was there before.

    Raises:
        InputError: when another process holds the folder, or it cannot be written.
    """
    new = [place for place in (folder, *folder.parents) if not os.path.exists(place)]
    try:
        with locks.hold_lock(folder / locks.NAME, f"the output folder {folder}"):
            try:
                require_writable(folder)
                yield
            except BaseException:
                # While the lock is held: afterwards the folder could be another process's.
                if folder in new:
                    shutil.rmtree(folder, ignore_errors=True)
                raise
    except BaseException:
        for place in new:
            with contextlib.suppress(OSError):
                place.rmdir()
        raise
