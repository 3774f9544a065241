"""CSV that a spreadsheet shows and does not compute, and that reads back as it was.

A cell that begins with ``=`` is a formula to a spreadsheet, and a class may be called so. Such a
cell gets an apostrophe in front, which is taken off again when the file is read here; numbers are
left as they are. https://owasp.org/www-community/attacks/CSV_Injection
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence

_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")


def write_table(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV."""
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        # Python ends a row at a carriage return, and puts no quotes around one by itself.
        holds_return = any(isinstance(cell, str) and "\r" in cell for cell in row)
        (quoted if holds_return else plain).writerow([_protect(cell) for cell in row])
    return text.getvalue()


def read_table(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield the rows that ``write_table`` wrote.

    Raises:
        csv.Error: when it is not CSV.
    """
    for row in csv.reader(lines, strict=True):
        yield [_uncover(cell) for cell in row]


def _protect(cell: object) -> object:
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def _uncover(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
