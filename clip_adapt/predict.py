"""python -m clip_adapt.predict: a delta, or class names alone, on images."""

from __future__ import annotations

import sys

from clip_adapt import cli
from clip_adapt.cli import tables, words


def read_schema() -> words.Schema:
    """Return the options."""
    from clip_adapt.adapted.predicting import predict_files

    return words.make_schema(predict_files, json=(bool, False))


def main(argv: list[str]) -> int:
    """Run the command line; see ``--help``."""
    from clip_adapt.adapted.predicting import predict_files

    names, options = words.read_words(argv, read_schema())
    as_json = options.pop("json")
    for prediction in predict_files(names, **options):
        tables.show_prediction(prediction, as_json)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("predict", sys.argv[1:]))
