"""Writing the page of a run into its folder, and an index over many runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clip_adapt.errors import InputError
from clip_adapt.system.files import write_text
from clip_adapt.system.run_files import CONFIG, INDEX, PAGE


def write_page(folder: Path, metrics: dict[str, Any] | None = None) -> Path:
    """Write the page of a run into its folder: one file that needs no other and no network.

    Args:
        folder: the run's folder.
        metrics: in place of metrics.json, which a run writes last.

    Returns:
        the page.

    Raises:
        InputError: when the folder holds no run, or a file of it is damaged.
    """
    # Imported here because they bring what a typo on the command line does without.
    from clip_adapt.pages import facts, run_page

    write_text(folder / PAGE, run_page.render(facts.read(folder, metrics)))
    return folder / PAGE


def write_index(folder: Path) -> Path:
    """Write an index over all runs in and below a folder.

    Returns:
        the page.

    Raises:
        InputError: when there is no run.
    """
    from clip_adapt.pages import index_page

    write_text(folder / INDEX, index_page.render(folder))
    return folder / INDEX


def write_pages(folder: str, *, all: bool = False) -> Path:
    """Write the page of a run's folder, or the index over the runs below any other folder.

    Args:
        folder: of one run, or of many.
        all: make the page of every run anew before the index is written.

    Raises:
        InputError: when nothing is there to report.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise InputError(f"no such folder: {place} (looked at {place.absolute()})")
    if (place / CONFIG).is_file():
        return write_page(place)
    if all:
        from clip_adapt.pages import facts

        for path in facts.finished(place):
            write_page(path)
    return write_index(place)
