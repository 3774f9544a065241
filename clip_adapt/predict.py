"""python -m clip_adapt.predict: a delta, or class names alone, on images."""

from __future__ import annotations

import sys

from clip_adapt import cli
from clip_adapt.cli import words
from clip_adapt.cli.predictions import Screen


def read_schema() -> words.Schema:
    """Return the options."""
    from clip_adapt.adapted.predicting import predict_files

    return words.make_schema(predict_files, json=(bool, False), list=(str | None, None))


def main(argv: list[str]) -> int:
    """Run the command line; see ``--help``."""
    from clip_adapt.adapted.predicting import predict_files
    from clip_adapt.system.launch.joining import is_first

    names, options = words.read_words(argv, read_schema())
    as_json, at_once = options.pop("json"), options["on_bad_image"] == "skip"
    with Screen(as_json, at_once) as screen:
        summary = predict_files(names, options.pop("list"), screen.add, **options)
        if is_first():  # of the processes of a launch
            screen.finish(summary)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("predict", sys.argv[1:]))
