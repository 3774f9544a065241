"""A run's files take the place of an older run's: all of them, whenever the process ends.

    .unfinished/    what a run writes; it counts for nothing, and the next start takes it away
    .finished/      the same from one rename on, whole and on the disk: now the run is finished

Then the older run's files go, and these come; metrics.json goes first and comes last, so at no time
do numbers stand beside a delta of another run. Who finds ``.finished`` does what is left of that.
Files of a user's that lie there stay. All of it happens inside the folder, which may be one that
cannot be renamed: the folder of a mount, or the one that the user's shell is in. The folder may be
somebody else's, too: no link in it is followed, and no file outside is moved, written or deleted.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from clip_adapt.adapted.delta import FILE, README
from clip_adapt.data.seen import SEEN
from clip_adapt.errors import InputError
from clip_adapt.system import run_files
from clip_adapt.system.files import flush, refuse_unwritable, write_text
from clip_adapt.system.reading import read_json
from clip_adapt.system.run_files import ADAPTER, CHECKPOINT, FINISHED, METRICS, UNFINISHED
from clip_adapt.training import checkpoint

OLD = ".old"  # in it: which files are still to go; as long as it is there, none has come
OURS = (
    METRICS,  # first
    run_files.PAGE,
    run_files.PREDICTIONS,
    run_files.RETRIEVAL,
    run_files.CALIBRATION,
    run_files.TWINS,
    run_files.SUPPORT,
    run_files.IMAGES,
    run_files.CONFIG,
    f"{ADAPTER}/{FILE}",
    f"{ADAPTER}/{README}",
    f"{ADAPTER}/{SEEN}",
    f"{CHECKPOINT}/{checkpoint.FILE}",
)
WHILE_WRITING = (f"{UNFINISHED}/{METRICS}", f"{FINISHED}/{METRICS}")


def begin_run(folder: Path) -> None:
    """Make the place for what a run writes, after what an earlier run has left undone.

    Raises:
        InputError: when a folder stands where a file of a run goes, or a link where a folder goes.
    """
    _refuse_links(folder, [*OURS, *WHILE_WRITING])
    finish_replacing(folder)
    for name in OURS:
        if (folder / name).is_dir():
            raise InputError(f"{folder / name} is a folder and would be a file: move it away")
    drop_unfinished(folder)
    (folder / UNFINISHED).mkdir(parents=True)


def drop_unfinished(folder: Path) -> None:
    """Take away what a run has written that did not come to its end."""
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def replace_run(folder: Path, unwanted: Iterable[str] = ()) -> None:
    """Let what lies in ``.unfinished`` take the place of an older run.

    Args:
        folder: of the run.
        unwanted: names of files that this run does not have and an older one may have.

    Raises:
        InputError: when the folder cannot be written.
    """
    written = folder / UNFINISHED
    names = _list_files(written)
    events = [path.name for path in folder.glob(run_files.EVENTS)]
    old = [n for n in dict.fromkeys([*OURS, *events, *names, *unwanted]) if (folder / n).is_file()]
    with refuse_unwritable(folder):
        write_text(written / OLD, json.dumps(old))
        for name in names:
            flush(written / name)
        for place in (written / ADAPTER, written):
            flush(place)
        written.rename(folder / FINISHED)
        flush(folder)
    finish_replacing(folder)


def finish_replacing(folder: Path) -> None:
    """Do what a finished run, which was killed meanwhile, has left of taking its place.

    Raises:
        InputError: when the folder cannot be written, or leads elsewhere.
    """
    whole = folder / FINISHED
    if not whole.is_dir():
        return
    names = [name for name in _list_files(whole) if name != METRICS]
    old = _read_old(whole / OLD) if (whole / OLD).is_file() else None
    _refuse_links(folder, [*OURS, *WHILE_WRITING, *names, *(old or [])])
    with refuse_unwritable(folder):
        if old is not None:
            _remove_old(folder, old)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(whole / name, folder / name)
        for place in (folder / ADAPTER, folder):
            flush(place)
        if (whole / METRICS).is_file():
            os.replace(whole / METRICS, folder / METRICS)
            flush(folder)
        shutil.rmtree(whole)


def _remove_old(folder: Path, names: list[str]) -> None:
    for name in names:
        if (folder / name).is_symlink() or (folder / name).is_file():
            (folder / name).unlink()
    with contextlib.suppress(OSError):
        (folder / CHECKPOINT).rmdir()
    for place in (folder / ADAPTER, folder):
        flush(place)
    (folder / FINISHED / OLD).unlink()
    flush(folder / FINISHED)  # before a file comes that one of these names would take away again


def _read_old(file: Path) -> list[str]:
    held = read_json(file)
    if not isinstance(held, list) or not all(isinstance(name, str) for name in held):
        raise InputError(f"{file} is damaged: it is no list of files. Remove {file.parent}")
    paths = [PurePosixPath(name) for name in held]
    if any(p.is_absolute() or ".." in p.parts or "\0" in str(p) for p in paths):
        raise InputError(f"{file} names files of other folders. Remove {file.parent}")
    return held


def _refuse_links(folder: Path, names: Iterable[str]) -> None:
    # What is asked for lies in the folder itself, which may be reached by a link.
    inside = {part for name in names for part in PurePosixPath(name).parents if part.name}
    for part in sorted(inside):
        if (folder / part).is_symlink():
            raise InputError(
                f"{folder / part} is a link that leads elsewhere: a run writes and takes away "
                "files of its own folder alone. Move the link away"
            )


def _list_files(place: Path) -> list[str]:
    found = (path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())
    return sorted(name for name in found if name != OLD)
