"""What we say when we refuse something that the user gave us."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The user's input is refused. The message names the value, where it came from, the remedy.

    Command lines print the message without a traceback and end with exit code 2.
    """


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return ``" - did you mean 'x'?"`` for the nearest known spelling, or a full stop.

    ``prefix`` is put before the spelling that is shown and plays no part in the comparison.
    """
    by_lower = {k.lower(): k for k in known}
    match = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f" - did you mean {prefix + by_lower[match[0]]!r}?" if match else "."


def shorten(text: str, limit: int = 1000, lines: int = 120, most: int = 16_000) -> str:
    """Return a text cut after so many lines, and each after so many characters.

    Lines end earlier where all of them would have more than ``most`` characters. What is left out
    is counted.
    """
    whole = text.split("\n")
    kept, length = list[str](), 0
    for line in whole[:lines]:
        more = f" ... ({len(line) - limit} characters more)" if len(line) > limit else ""
        length += len(line[:limit] + more) + 1
        if kept and length > most:
            break
        kept.append(line[:limit] + more)
    left = len(whole) - len(kept)
    return "\n".join(kept + [f"... and {left} more lines"] * bool(left))


def explain_unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return one line that names what is unknown, the nearest spelling, and what exists."""
    names = list(known)
    return f"unknown {kind} {name!r}{nearest(name, names)} There is: {', '.join(names) or 'none'}."


def list_lines(items: Iterable[object], limit: int = 20) -> str:
    """Return the items one per indented line, the tail as a count."""
    lines = [f"  {item}" for item in items]
    more = [f"  ... and {len(lines) - limit} more"] if len(lines) > limit else []
    return "\n".join(lines[:limit] + more)
