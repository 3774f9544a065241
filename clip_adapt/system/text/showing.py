"""Text of somebody else's where it is read: it is shown, and never obeyed.

Class names, paths, captions and commands come from files and folders. A terminal obeys some
characters, Markdown others, a shell and a spreadsheet others again.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from typing import Any

# What a terminal obeys or a reader does not see: the control characters but for the end of a line,
# what turns the direction of writing, halves of characters, which stand for bytes that are not
# UTF-8, and what YAML does not take.
_HIDDEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff"
    "\ud800-\udfff]"
)
_MARKDOWN = re.compile(r"[\\`*\[\]<>|&~#]|(?<!\w)_|_(?!\w)")


def show_text(text: object) -> str:
    r"""Return a text of several lines for a terminal: ESC is written as ``\x1b``."""
    return _HIDDEN.sub(lambda match: _name_code(ord(match[0])), str(text))


def show_line(text: object) -> str:
    r"""Return a text as one line: ``show_text`` with ``\n`` for the end of a line."""
    return show_text(text).replace("\n", "\\n")


def is_plain(text: str) -> bool:
    """Return whether a text is one line and nothing in it is hidden."""
    return show_line(text) == text


def is_utf8(text: str) -> bool:
    """Return whether a text can be written; Python keeps other bytes of names as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def write_command(words: Iterable[str]) -> str:
    """Return a command line that a shell reads as these words, on one line, all of it visible."""
    return " ".join(shlex.quote(word) if is_plain(word) else _quote_codes(word) for word in words)


def write_markdown(text: object) -> str:
    """Return a text as Markdown that shows it: no markup, no link, no HTML, no end of a line."""
    return _MARKDOWN.sub(r"\\\g<0>", show_line(text))


def write_code(text: object) -> str:
    """Return a text as code inside a line of Markdown, which nothing in it can end."""
    line = show_line(text)
    runs = [len(run) for run in re.findall("`+", line)]
    fence = "`" * next(n for n in range(1, len(runs) + 2) if n not in runs)
    space = " " * (line[:1] == "`" or line[-1:] == "`")
    return f"{fence}{space}{line}{space}{fence}"


def write_json(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON whose every character can be seen; it reads back as it was."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    return _HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _name_code(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _quote_codes(word: str) -> str:
    # The form $'...' of bash and zsh. Python keeps bytes that are not UTF-8 as U+DC80 to U+DCFF.
    def write(match: re.Match[str]) -> str:
        code = ord(match[0])
        if 0xDC80 <= code <= 0xDCFF:
            return f"\\x{code - 0xDC00:02x}"
        return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"

    plain = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + _HIDDEN.sub(write, plain).replace("\n", "\\n") + "'"
