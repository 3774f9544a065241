"""Predictions of many images as one file: CSV, lines of JSON, or Parquet.

Rows go to a temporary file beside it as they come; at the end it takes the file's place.

| column | content |
|---|---|
| path | of the image, as it was named or found |
| time | of a video's frame, in seconds; only with ``every=`` |
| label | the most probable class |
| probability | of that class |
| set | the classes of the conformal set; only of a delta that has thresholds |
| p:CLASS | the probability of each class, with all its digits |
| error | why a file cannot be read; only with ``on_bad_image=skip`` |
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_adapt.adapted.prediction import Prediction
from clip_adapt.errors import InputError
from clip_adapt.system.files import write_atomically
from clip_adapt.system.reading import make_path
from clip_adapt.system.text.csv_text import write_table
from clip_adapt.system.text.showing import write_json

GROUP = 4096  # rows of a Parquet file that lie together

Write = Callable[[Prediction], object]


@dataclass(frozen=True)
class PredictionTable:
    """Which columns a file has.

    Attributes:
        classes: in the order of the columns.
        with_time: whether frames of videos are among the images.
        with_set: whether there are conformal sets.
        with_error: whether files that cannot be read have a row.
    """

    classes: Sequence[str]
    with_time: bool = False
    with_set: bool = False
    with_error: bool = False

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return [
            "path",
            *["time"] * self.with_time,
            "label",
            "probability",
            *["set"] * self.with_set,
            *(f"p:{name}" for name in self.classes),
            *["error"] * self.with_error,
        ]

    def fill(self, prediction: Prediction) -> dict[str, Any]:
        """Return the row of a prediction; None where there is nothing to say."""
        best = prediction.ranking[0] if prediction.ranking else (None, None)
        chosen = prediction.chosen
        shares = prediction.probabilities or [None] * len(self.classes)
        row = {
            "path": prediction.path,
            "time": prediction.time,
            "label": best[0],
            "probability": best[1],
            "set": None if chosen is None else [name for name, _ in chosen],
            "error": prediction.error,
            **{f"p:{name}": p for name, p in zip(self.classes, shares, strict=True)},
        }
        return {column: row[column] for column in self.columns}


def parse_output(text: str) -> Path:
    """Return where predictions are to be written.

    Raises:
        InputError: when the suffix is no known one, a library is missing, or it cannot be a file.
    """
    path = make_path(text)
    if path.suffix.lower() not in WRITERS:
        raise InputError(
            f"output={text}: the suffix says in what form predictions are written, one of "
            f"{', '.join(WRITERS)}"
        )
    if path.suffix.lower() == ".parquet":
        _find_parquet()
    if os.path.isdir(path):
        raise InputError(f"output={text} is a folder: give the name of a file in it")
    return path


@contextlib.contextmanager
def open_output(path: Path, layout: PredictionTable) -> Iterator[Write]:
    """Yield a function that writes a prediction; the file is there when the block succeeds.

    Raises:
        InputError: when the disk is full or the folder cannot be written.
    """
    with (
        write_atomically(path) as temporary,
        WRITERS[path.suffix.lower()](temporary, layout) as write,
    ):
        yield write


@contextlib.contextmanager
def _write_csv(path: Path, layout: PredictionTable) -> Iterator[Write]:
    # Half characters, which stand for bytes of a name that are not UTF-8, as \udcff.
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        file.write(write_table([layout.columns]))
        yield lambda p: file.write(write_table([_list_cells(layout.fill(p))]))


def _list_cells(row: Mapping[str, Any]) -> list[Any]:
    return [json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v for v in row.values()]


@contextlib.contextmanager
def _write_lines(path: Path, layout: PredictionTable) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as file:
        yield lambda p: file.write(f"{write_json(layout.fill(p))}\n")


@contextlib.contextmanager
def _write_parquet(path: Path, layout: PredictionTable) -> Iterator[Write]:
    arrow, parquet = _find_parquet()
    kinds = {
        "path": arrow.string(),
        "time": arrow.float64(),
        "label": arrow.string(),
        "set": arrow.list_(arrow.string()),
        "error": arrow.string(),
    }
    schema = arrow.schema([(c, kinds.get(c, arrow.float32())) for c in layout.columns])
    with parquet.ParquetWriter(path, schema) as file:
        waiting: list[dict[str, Any]] = []

        def flush() -> None:
            file.write_table(arrow.Table.from_pylist(waiting, schema))
            waiting.clear()

        def write(prediction: Prediction) -> None:
            waiting.append({c: _escape(v) for c, v in layout.fill(prediction).items()})
            if len(waiting) == GROUP:
                flush()

        yield write
        flush()


WRITERS: dict[str, Callable[[Path, PredictionTable], contextlib.AbstractContextManager[Write]]] = {
    ".csv": _write_csv,
    ".jsonl": _write_lines,
    ".parquet": _write_parquet,
}


def _find_parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            "output=....parquet needs pyarrow: pip install 'clip-adapt[parquet]', or write .csv "
            "or .jsonl"
        ) from error
    return pyarrow, pyarrow.parquet


def _escape(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value
