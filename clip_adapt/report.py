"""python -m clip_adapt.report: the page of a run, or an index over many runs."""

from __future__ import annotations

import sys

from clip_adapt import cli
from clip_adapt.cli import words
from clip_adapt.errors import InputError
from clip_adapt.system.text.showing import show_line


def read_schema() -> words.Schema:
    """Return the options."""
    from clip_adapt.runs.pages import write_pages

    return words.make_schema(write_pages)


def main(argv: list[str]) -> int:
    """Run the command line; see ``--help``."""
    from clip_adapt.runs.pages import write_pages

    folders, options = words.read_words(argv, read_schema())
    if len(folders) != 1:
        raise InputError(f"expected one folder, of a run or of many runs, not {len(folders)}")
    print(show_line(write_pages(folders[0], **options)))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("report", sys.argv[1:]))
