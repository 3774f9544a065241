"""python -m clip_adapt.sweep: every combination of methods, shots, seeds and any other option."""

from __future__ import annotations

import sys
import time

from clip_adapt import cli
from clip_adapt.cli import tables, words
from clip_adapt.system.text.showing import show_text


def read_schema() -> words.Schema:
    """Return the options."""
    from clip_adapt.sweeps.sweep import run_sweep

    return words.make_schema(run_sweep, without=("say",))


def main(argv: list[str]) -> int:
    """Run the command line; see ``--help``."""
    given = words.read_options(argv)
    from clip_adapt.sweeps.sweep import run_sweep

    own = words.take_own(given, read_schema())
    begin = time.perf_counter()
    done = run_sweep(given, **own, say=lambda line: print(show_text(line), flush=True))
    if not done.leads:
        return 0  # a non-zero code would make the launcher end the other processes
    tables.show_sweep(done, time.perf_counter() - begin)
    return cli.FAULT if done.failed else 0


if __name__ == "__main__":
    sys.exit(cli.run("sweep", sys.argv[1:]))
