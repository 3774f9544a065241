"""The command lines: words become options, results become tables, errors become one message.

Nothing here imports torch, so that ``--help``, and what is said of a misspelt word, come at once.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from signal import SIGINT

from clip_adapt.cli.completion import write_completion
from clip_adapt.cli.early import refuse_misspelt
from clip_adapt.cli.help import write_help, write_overview
from clip_adapt.cli.streams import close_quietly, prepare_streams
from clip_adapt.cli.verbosity import Verbosity, take_verbosity
from clip_adapt.cli.words import VERBS
from clip_adapt.errors import InputError, explain_unknown, shorten
from clip_adapt.system.launch import joining, stopping
from clip_adapt.system.text.showing import show_text
from clip_adapt.system.version import __version__

REFUSED, FAULT = 2, 1
SIGNALLED = 128  # and the number of the signal: 130 for Ctrl-C, 143 for SIGTERM
HELP, VERSION = ("-h", "--help", "help"), ("-V", "--version")


def main(argv: list[str] | None = None) -> int:
    """Run ``clip-adapt VERB ...``."""
    words = sys.argv[1:] if argv is None else argv
    verb, rest = (words[0], words[1:]) if words else ("", [])
    if verb in VERBS:
        return run(verb, rest)
    return _end_with_reader(lambda: _run_other(verb, rest))


def say_error(error: object) -> None:
    """Print why something is refused: what names and files hold is shown, not obeyed."""
    print(f"error: {shorten(show_text(error))}", file=sys.stderr)


def run(verb: str, argv: list[str]) -> int:
    """Run a verb; return its exit code: 0 done, 2 input refused, 130 interrupted, 143 ended.

    Where whoever read the output has gone (``| head``) it is 141, as of other programs. A fault of
    ours leaves its traceback, and Python's exit code 1.
    """
    return _end_with_reader(lambda: _run_verb(verb, argv))


def _end_with_reader(act: Callable[[], int]) -> int:
    prepare_streams()
    try:
        code = act()
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        return close_quietly()


def _run_other(verb: str, rest: list[str]) -> int:
    # What is asked of the program itself, and what it does not know.
    if verb in VERSION:
        print(f"clip_adapt {__version__}")
        return 0
    if verb in HELP and rest and rest[0] in VERBS:
        return _run_verb(rest[0], [*rest[1:], "--help"])
    if verb in HELP or not verb:
        print(write_overview())
        return 0 if verb else REFUSED
    try:
        if verb != "completion":
            raise InputError(explain_unknown("verb", verb, VERBS))
        print(write_completion(rest), end="")
        return 0
    except InputError as error:
        say_error(error)
        return REFUSED


def _run_verb(verb: str, argv: list[str]) -> int:
    if any(word in VERSION for word in argv):
        return _run_other(VERSION[0], [])
    verbosity = Verbosity.NORMAL
    try:
        verbosity, argv = take_verbosity(argv)
        refuse_misspelt(verb, [word for word in argv if word not in HELP])
        if any(_asks_for_help(word) for word in argv):
            print(write_help(verb, [word for word in argv if word not in HELP]))
            return 0
        with stopping.catch_signals(), verbosity.apply():
            return importlib.import_module(f"clip_adapt.{verb}").main(argv)
    except InputError as error:
        if verbosity is Verbosity.DEBUG:
            traceback.print_exc()
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


def _asks_for_help(word: str) -> bool:
    return word in HELP and not (word == "help" and os.path.exists(word))
