"""python -m clip_adapt.train: adapt a backbone to images and save the delta."""

from __future__ import annotations

import sys

from clip_adapt import cli
from clip_adapt.errors import InputError


def main(argv: list[str]) -> int:
    """Run the command line; see ``--help``."""
    positional, given = cli.split(argv)
    if positional:
        lines = [f"expected key=value, got {word!r}{cli.hint(word)}" for word in positional]
        raise InputError("\n".join(lines))
    # Imported here because they bring torch, which --help does without.
    from clip_adapt.runs.configuration import compose
    from clip_adapt.runs.folder import output_folder
    from clip_adapt.runs.run import run

    config = compose(given)
    cli.show_config(config, output_folder(config))
    cli.show_run(run(config))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("train", sys.argv[1:]))
