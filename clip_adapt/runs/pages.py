"""Pages of finished runs, made anew: what ``report`` does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from clip_adapt.errors import InputError
from clip_adapt.system.files import write_text
from clip_adapt.system.reading import make_path
from clip_adapt.system.run_files import CONFIG, INDEX, PAGE


def write_pages(folder: str, *, all: bool = False) -> Path:
    """Write the page of a run's folder, or the index over the runs below any other folder.

    Args:
        folder: of one run, or of many.
        all: make the page of every run anew before the index is written.

    Raises:
        InputError: when nothing is there to report.
    """
    # Imported here: a typo on the command line is refused before torch is there.
    from clip_adapt.pages import facts
    from clip_adapt.runs.finished import repair_folders

    place = make_path(folder)
    if not os.path.isdir(place):
        raise InputError(f"no such folder: {place} (looked at {place.absolute()})")
    repair_folders(place)
    if os.path.isfile(place / CONFIG):
        with _refuse_damaged(place):
            return write_page(place)
    if all:
        write_index(place)  # the pages link to it
        for path in facts.find_finished(place):
            with _refuse_damaged(path):
                write_page(path)
    return write_index(place)


@contextlib.contextmanager
def _refuse_damaged(folder: Path) -> Iterator[None]:
    # A run's files are written by its objective and its methods, and any number of hands may have
    # been at them since: whatever a page stumbles over stands in them.
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the files of the run {folder} are damaged or were changed by hand: its page cannot "
            f"be made of them ({type(error).__name__}: {reason}). Run again, or put them back"
        ) from error


def write_page(folder: Path) -> Path:
    """Write the page of a finished run into its folder: one file that needs no other.

    The objective is one that is installed: a configuration that lies in a folder names no code.

    Raises:
        InputError: when the folder holds no finished run, or a file of it is damaged.
    """
    from clip_adapt.objectives import list_objectives
    from clip_adapt.objectives._finding import find_installed_objective
    from clip_adapt.pages import facts

    read = facts.read(folder)
    name = str(read.config.get("objective", "classify"))
    if name not in list_objectives():
        raise InputError(
            f"{folder} is a run of the objective {name}, which is not installed here: its page is "
            "made by the run itself, report=true"
        )
    write_text(folder / PAGE, find_installed_objective(name).objective.render_page(read))
    return folder / PAGE


def write_index(
    folder: Path, runs: Sequence[Path] | None = None, metric: str | None = None
) -> Path:
    """Write the index over runs in and below a folder.

    Args:
        folder: where the index goes.
        runs: the folders of the runs; None takes all finished ones.
        metric: what it is sorted by; None is the first headline metric.

    Raises:
        InputError: when there is no run.
    """
    from clip_adapt.pages import index_page

    write_text(folder / INDEX, index_page.render(folder, runs, metric))
    return folder / INDEX
