"""The command lines: words become options, results become tables, errors become one message.

Nothing here imports torch, so that ``--help`` answers at once.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys

from clip_adapt.cli.words import VERBS, write_help
from clip_adapt.errors import InputError, explain_unknown, shorten

REFUSED, FAULT, INTERRUPTED = 2, 1, 130


def main(argv: list[str] | None = None) -> int:
    """Run ``clip-adapt VERB ...``."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        print("usage: clip-adapt VERB ...\n")
        for verb, meaning in VERBS.items():
            print(f"  {verb:<10}{meaning}")
        print("\nclip-adapt VERB --help lists a verb's options.")
        return 0 if words else REFUSED
    if words[0] not in VERBS:
        problem = shorten(explain_unknown("verb", words[0], VERBS))
        print(f"error: {problem}", file=sys.stderr)
        return REFUSED
    return run(words[0], words[1:])


def run(verb: str, argv: list[str]) -> int:
    """Run a verb; return its exit code: 0 done, 2 input refused, 130 interrupted.

    A fault of ours leaves its traceback, and Python's exit code 1.
    """
    if any(word in ("-h", "--help", "help") for word in argv):
        print(write_help(verb, argv))
        return 0
    # Threads that spin while they wait slow each other down by a factor of 50 as soon as another
    # program takes a core (measured on 2 cores); read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(format="%(message)s", level=logging.CRITICAL)
    logging.getLogger("clip_adapt").setLevel(logging.INFO)
    try:
        return importlib.import_module(f"clip_adapt.{verb}").main(argv)
    except InputError as error:
        print(f"error: {shorten(str(error))}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        # Worker threads may still decode; nothing that they do is waited for.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("interrupted; nothing half-written was left", file=sys.stderr)
        return INTERRUPTED
