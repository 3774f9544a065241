r"""What a terminal or a file cannot hold is written in signs that it can, and ends nothing.

A Windows console takes cp1252, a pipe of ``LANG=C`` ASCII. What such a stream has no sign for is
written as JSON writes it (``\u00e9``), so that a line of JSON stays one; bars are of ``#``.
"""

from __future__ import annotations

import codecs
import os
import sys

ERRORS = "clip_adapt.signs"
PLAIN = {"█": "#", "…": "...", "–": "-", "—": "-", "±": "+-"}  # of ours; names keep their codes
CLOSED = 128 + 13  # the exit code of a program that writes into a closed pipe: SIGPIPE


def prepare_streams() -> None:
    """Let stdout and stderr take every text."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=ERRORS)


def write_signs(text: str, encoding: str) -> str:
    """Return a text as a stream of that encoding will show it, for whoever measures it."""
    return text.encode(encoding, ERRORS).decode(encoding)


def close_quietly() -> int:
    """Give up stdout after its reader (``head``) has gone; return the exit code."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # what is still buffered goes there at the exit
        os.close(nowhere)
    except (OSError, ValueError):
        pass  # a stream without a file
    return CLOSED


def _write_signs(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(PLAIN.get(sign) or _write_code(sign) for sign in text), error.end


def _write_code(sign: str) -> str:
    halves = sign.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{halves[i : i + 2].hex()}" for i in range(0, len(halves), 2))


codecs.register_error(ERRORS, _write_signs)
