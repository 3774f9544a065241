"""Reading a table of text: any delimiter, one line of column names, errors with their line."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

from clip_adapt.errors import InputError
from clip_adapt.system.reading import refuse_devices

DELIMITERS = ",;\t|"
# Tables that are no text: how their files begin, what they are, and the function of pandas that
# reads them.
BINARY = {
    ".xlsx": (b"PK\x03\x04", "a spreadsheet", "read_excel"),
    ".xls": (b"\xd0\xcf\x11\xe0", "a spreadsheet", "read_excel"),
    ".ods": (b"PK\x03\x04", "a spreadsheet", "read_excel"),
    ".parquet": (b"PAR1", "a Parquet file", "read_parquet"),
    ".feather": (b"ARROW1", "a Feather file", "read_feather"),
}
# What Excel writes above the names of the columns, and understands there.
_SEPARATOR_LINE = re.compile(r'"?sep=([^"\r\n])"?[,;\t|]*(?:\r\n|\r|\n)', re.IGNORECASE)
_END_OF_LINE = re.compile(r"\r\n|\r|\n")


class Row(dict[str, str]):
    """The values of one row by column; ``line`` is its line in the file."""

    __slots__ = ("line",)

    def __init__(self, values: dict[str, str], line: int) -> None:
        super().__init__(values)
        self.line = line


@dataclass(frozen=True)
class TableFile:
    """A table: its file, its columns, its rows."""

    path: Path
    columns: list[str]
    rows: list[Row]


def read_table(path: Path, encoding: str = "utf-8-sig", delimiter: str | None = None) -> TableFile:
    """Read a table; empty lines, and columns without a name, are left out.

    Raises:
        InputError: when it is missing, empty, no text of this encoding, or ragged.
    """
    if delimiter is not None and len(delimiter) != 1:
        raise InputError(f"dataset.delimiter={delimiter!r}: expected one character")
    text = _read_text(path, encoding)
    marked = _SEPARATOR_LINE.match(text)
    above = 0
    if marked is not None:
        text, above, delimiter = text[marked.end() :], 1, delimiter or marked[1]
    file = io.StringIO(text, newline="")
    reader = csv.reader(file, delimiter=delimiter or _guess_delimiter(text), strict=True)
    try:
        lines = [(r, reader.line_num + above) for r in reader if any(map(str.strip, r))]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num + above}: {error}") from error
    columns = _read_columns(path, lines[0][0] if lines else [])
    rows = [_make_row(path, columns, values, line) for values, line in lines[1:]]
    if not rows:
        raise InputError(f"{path} has column names and no rows")
    return TableFile(path, [name for name in columns if name], rows)


def _read_text(path: Path, encoding: str) -> str:
    refuse_devices(path)
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path that no system can hold
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"the table {path} cannot be read: {reason}") from error
    if not data.strip():
        raise InputError(f"the table {path} is empty")
    _refuse_binary(path, data)
    text = _decode(path, data, encoding).removeprefix("\ufeff")
    if not text.strip():
        raise InputError(f"the table {path} is empty")
    return text


def _refuse_binary(path: Path, data: bytes) -> None:
    for suffix, (magic, what, function) in BINARY.items():
        if path.suffix.lower() == suffix or data.startswith(magic):
            name = path.with_suffix(".csv").name
            raise InputError(
                f"{path} is {what}, and a table is read from text. Write it as CSV: python -c "
                f'"import pandas; pandas.{function}({path.name!r}).to_csv({name!r}, index=False)"'
                + (", or save it as 'CSV UTF-8'" if function == "read_excel" else "")
            )
    if data.startswith(b"\x1f\x8b"):
        raise InputError(f"{path} is compressed: unpack it with gunzip")


def _decode(path: Path, data: bytes, encoding: str) -> str:
    codec = _find_marked(data) or _find_codec(encoding)
    if b"\0" in data and not ("16" in codec or "32" in codec):
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}: a NUL byte; this is no text, or it is damaged"
            f"{_suggest_wide(data)}"
        )
    try:
        return data.decode(codec)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not {encoding}. Save the "
            "table as UTF-8, or say what it is: dataset.encoding=cp1252"
        ) from error


def _find_marked(data: bytes) -> str | None:
    # A byte order mark of two bytes or four says what follows, whatever else is said.
    marks = {
        "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
        "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
    }
    return next((codec for codec, mark in marks.items() if data.startswith(mark)), None)


def _suggest_wide(data: bytes) -> str:
    # Every other byte of English text in UTF-16 is zero.
    for codec, start in (("utf-16-le", 1), ("utf-16-be", 0)):
        if data[start::2].count(0) > len(data) // 4:
            return f". It looks like UTF-16 without its mark: dataset.encoding={codec}"
    return ""


def _find_codec(encoding: str) -> str:
    # Some codecs compress or encrypt (zip, hex, rot13), some are of domain names, and "undefined"
    # refuses everything.
    try:
        codec = codecs.lookup(encoding).name
        with contextlib.suppress(UnicodeDecodeError):  # of two bytes or more a character
            b"a".decode(encoding)
        if codec in ("idna", "punycode"):
            raise LookupError
        return codec
    except (LookupError, ValueError):
        raise InputError(
            f"dataset.encoding={encoding}: no such encoding; expected utf-8, cp1252, utf-16 ..."
        ) from None


def _guess_delimiter(text: str) -> str:
    # Names in quotes may hold any of them.
    first = next(line for line in _END_OF_LINE.split(text) if line.strip())
    return max(DELIMITERS, key=re.sub('"[^"]*"', "", first).count)


def _read_columns(path: Path, names: list[str]) -> list[str]:
    columns = [name.strip() for name in names]
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise InputError(f"{path} has two columns named {', '.join(map(repr, twice))}")
    return columns


def _make_row(path: Path, columns: list[str], values: list[str], line: int) -> Row:
    # A delimiter at the end of a line makes a column more, without a name and without values.
    needed = next((n for n in range(len(columns), 0, -1) if columns[n - 1]), 0)
    surplus = any(value.strip() for value in values[len(columns) :])
    if len(values) < needed or surplus:
        raise InputError(
            f"{path}, line {line}: {len(values)} values where {len(columns)} columns are named "
            f"({', '.join(columns)}). Put values that hold the delimiter into quotes."
        )
    return Row({n: v for n, v in zip(columns, values, strict=False) if n}, line)
