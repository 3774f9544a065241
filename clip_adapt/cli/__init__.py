"""The command lines: words become options, results become tables, errors become one message.

Nothing here imports torch, so that ``--help`` answers at once.
"""

from __future__ import annotations

import importlib
import logging
import sys
from signal import SIGINT

from clip_adapt.cli.words import VERBS, write_help
from clip_adapt.errors import InputError, explain_unknown, shorten
from clip_adapt.system.launch import joining, stopping
from clip_adapt.system.text.messages import make_handler
from clip_adapt.system.text.showing import show_text

REFUSED, FAULT = 2, 1
SIGNALLED = 128  # and the number of the signal: 130 for Ctrl-C, 143 for SIGTERM


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
        say_error(explain_unknown("verb", words[0], VERBS))
        return REFUSED
    return run(words[0], words[1:])


def say_error(error: object) -> None:
    """Print why something is refused: what names and files hold is shown, not obeyed."""
    print(f"error: {shorten(show_text(error))}", file=sys.stderr)


def run(verb: str, argv: list[str]) -> int:
    """Run a verb; return its exit code: 0 done, 2 input refused, 130 interrupted, 143 ended.

    A fault of ours leaves its traceback, and Python's exit code 1.
    """
    if any(word in ("-h", "--help", "help") for word in argv):
        print(write_help(verb, argv))
        return 0
    logging.basicConfig(handlers=[make_handler()], level=logging.CRITICAL)
    logging.getLogger("clip_adapt").setLevel(logging.INFO)
    try:
        with stopping.catch_signals():
            return importlib.import_module(f"clip_adapt.{verb}").main(argv)
    except InputError as error:
        if joining.speaks(error):
            say_error(error)
        return REFUSED
    except KeyboardInterrupt as stop:
        stopping.leave_signals_to_system()
        number, note = getattr(stop, "number", SIGINT), getattr(stop, "note", "")
        ended = "interrupted" if number == SIGINT else "ended by SIGTERM"
        if joining.is_first():
            print(f"{ended}; {note or 'nothing half-written was left'}", file=sys.stderr)
        return SIGNALLED + number
