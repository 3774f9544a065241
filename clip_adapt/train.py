"""python -m clip_adapt.train: adapt a backbone to images and save the delta."""

from __future__ import annotations

import sys

from clip_adapt import cli
from clip_adapt.cli import tables, words
from clip_adapt.system.launch.processes import is_main


def main(argv: list[str]) -> int:
    """Run the command line; see ``--help``."""
    given = words.read_options(argv)
    # Imported here because they bring torch, which --help does without.
    from clip_adapt.runs.configuration import compose
    from clip_adapt.runs.output.folder import choose_folder
    from clip_adapt.runs.run import join_run, run

    config = compose(given)
    with join_run(config):
        if is_main():
            tables.show_config(config, choose_folder(config))
        classifier = run(config)
        if is_main():
            tables.show_run(classifier, config.method.file)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("train", sys.argv[1:]))
