"""Reading a table of text: any delimiter, one line of column names, errors with their line."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
from dataclasses import dataclass
from pathlib import Path

from clip_adapt.errors import InputError
from clip_adapt.system.reading import refuse_devices

DELIMITERS = ",;\t|"


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
    """Read a table; empty lines are left out.

    Raises:
        InputError: when it is missing, empty, no text of this encoding, or ragged.
    """
    text = _read_text(path, encoding)
    first = text.split("\n", 1)[0]
    if delimiter is not None and len(delimiter) != 1:
        raise InputError(f"dataset.delimiter={delimiter!r}: expected one character")
    separator = delimiter or max(DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        columns = _read_columns(path, next(reader))
        rows = [
            _make_row(path, columns, r, reader.line_num) for r in reader if any(map(str.strip, r))
        ]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}") from error
    if not rows:
        raise InputError(f"{path} has column names and no rows")
    return TableFile(path, columns, rows)


def _read_text(path: Path, encoding: str) -> str:
    refuse_devices(path)
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path that no system can hold
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"the table {path} cannot be read: {reason}") from error
    if not data.strip():
        raise InputError(f"the table {path} is empty")
    codec = _find_codec(encoding)
    is_wide = "16" in codec or "32" in codec
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and not is_wide:
        raise InputError(f"{path} is written in UTF-16: say so with dataset.encoding=utf-16")
    if b"\0" in data and not is_wide:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: a NUL byte; this is no text, or it is damaged")
    try:
        return data.decode(codec)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not {encoding}. Save the "
            "table as UTF-8, or say what it is: dataset.encoding=cp1252"
        ) from error


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


def _read_columns(path: Path, names: list[str]) -> list[str]:
    columns = [name.strip() for name in names]
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise InputError(f"{path} has two columns named {', '.join(map(repr, twice))}")
    return columns


def _make_row(path: Path, columns: list[str], values: list[str], line: int) -> Row:
    if len(values) != len(columns):
        raise InputError(
            f"{path}, line {line}: {len(values)} values where {len(columns)} columns are named "
            f"({', '.join(columns)}). Put values that hold the delimiter into quotes."
        )
    return Row(dict(zip(columns, values, strict=True)), line)
