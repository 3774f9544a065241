"""python -m clip_adapt.report: the page of a run, or an index over many runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from clip_adapt import cli
from clip_adapt.cli import PAGE
from clip_adapt.config import options
from clip_adapt.errors import InputError
from clip_adapt.system.files import write_text

INDEX = "index.html"


def write(folder: Path, metrics: dict[str, Any] | None = None) -> Path:
    """Write the page of a run into its folder: one file that needs no other and no network.

    Args:
        folder: the run's folder.
        metrics: in place of metrics.json, which a run writes last.

    Returns:
        the page.

    Raises:
        InputError: when the folder holds no run, or a file of it is damaged.
    """
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


def run(folder: str, *, all: bool = False) -> Path:
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
    if (place / "config.yaml").is_file():
        return write(place)
    if all:
        from clip_adapt.pages import facts

        for path in facts.finished(place):
            write(path)
    return write_index(place)


def main(argv: list[str]) -> int:
    """Run the command line; see ``--help``."""
    positional, given = cli.split(argv)
    checked, problems = options.validate(given, options.of_signature(run))
    if len(positional) != 1:
        problems.append(f"expected one folder, of a run or of many runs, not {len(positional)}")
    if problems:
        raise InputError("\n".join(problems))
    print(run(positional[0], **checked))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("report", sys.argv[1:]))
