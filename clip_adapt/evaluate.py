"""python -m clip_adapt.evaluate: one delta or several on the test split of a data set."""

from __future__ import annotations

import sys

from clip_adapt import cli
from clip_adapt.cli import tables, words
from clip_adapt.errors import InputError


def read_schema() -> words.Schema:
    """Return the options."""
    from clip_adapt.runs.deltas import measure_deltas

    return words.make_schema(measure_deltas, json=(bool, False))


def main(argv: list[str]) -> int:
    """Run the command line; see ``--help``."""
    from clip_adapt.runs.deltas import measure_deltas

    adapters, options = words.read_words(argv, read_schema())
    if not adapters:
        raise InputError("expected a delta (a folder adapter/), or several")
    as_json = options.pop("json")
    tables.show_measured(measure_deltas(adapters, **options), as_json)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("evaluate", sys.argv[1:]))
