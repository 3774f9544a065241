"""python -m clip_adapt.evaluate: one delta or several on the images of a data set."""

from __future__ import annotations

import sys

from clip_adapt import cli
from clip_adapt.cli import tables, words
from clip_adapt.config.given import nest
from clip_adapt.errors import InputError


def read_schema() -> words.Schema:
    """Return the options."""
    from clip_adapt.runs.deltas import measure_deltas

    return words.make_schema(measure_deltas, without=("dataset_options",), json=(bool, False))


def main(argv: list[str]) -> int:
    """Run the command line; see ``--help``."""
    from clip_adapt.runs.deltas import measure_deltas

    adapters, given = words.split_given(argv, words.list_known("evaluate"))
    own = {key: given.pop(key) for key in list(given) if key.startswith("dataset.")}
    options = words.require_valid(given, read_schema())
    if not adapters:
        raise InputError("expected a delta (a folder adapter/), or several")
    as_json = options.pop("json")
    of_data = nest(own)["dataset"]
    tables.show_measured(measure_deltas(adapters, **options, dataset_options=of_data), as_json)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("evaluate", sys.argv[1:]))
