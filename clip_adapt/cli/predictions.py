"""What ``predict`` prints: a table an image, lines of JSON, or a summary of many images."""

from __future__ import annotations

import shutil
import sys
import tempfile
from typing import TYPE_CHECKING, Any, TextIO

from clip_adapt.errors import list_lines
from clip_adapt.system.text.showing import show_line, show_text, write_json

if TYPE_CHECKING:
    from clip_adapt.adapted.predicting import Summary
    from clip_adapt.adapted.prediction import Prediction
    from clip_adapt.cli.console import ShownConsole

MOST = 20  # images that have a table each; of more a summary is read
IN_MEMORY = 1 << 23  # characters of JSON that wait there


class Screen:
    """Takes predictions one after the other, and prints them when it is time.

    Args:
        as_json: a line an image, however many there are.
        at_once: print a line as soon as it is there; otherwise nothing is printed until all is
            known to be well.
    """

    def __init__(self, as_json: bool, at_once: bool) -> None:
        self._as_json = as_json
        self._first: list[Prediction] = []
        self._holds = as_json and not at_once
        self._lines: TextIO = _open_buffer() if self._holds else sys.stdout

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *error: object) -> None:
        if self._holds:
            self._lines.close()

    def add(self, prediction: Prediction) -> None:
        """Take the next prediction."""
        if self._as_json:
            print(write_json(_describe(prediction)), file=self._lines)
        elif len(self._first) <= MOST:
            self._first.append(prediction)

    def finish(self, summary: Summary) -> None:
        """Print what is left to be printed."""
        if self._holds:
            self._lines.seek(0)
            shutil.copyfileobj(self._lines, sys.stdout)
        elif not self._as_json and len(self._first) <= MOST and summary.output is None:
            for prediction in self._first:
                if prediction.error is None:
                    show_prediction(prediction)
        elif not self._as_json:
            show_summary(summary)
        if summary.broken:
            reasons = (f"{show_line(path)}: {why}" for path, why in summary.broken.items())
            lines = list_lines(reasons, limit=100)
            left = f"{len(summary.broken)} cannot be read and were left out:\n{lines}"
            print(show_text(left), file=sys.stderr)


def _open_buffer() -> Any:
    return tempfile.SpooledTemporaryFile(IN_MEMORY, "w+", encoding="utf-8", newline="")


def show_summary(summary: Summary) -> None:
    """Print how many images were which class, how long it took, and what was written."""
    from rich.table import Table

    console = _make_console()
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    for name, count in sorted(summary.classes.items(), key=lambda pair: -pair[1]):
        if count:
            table.add_row(name, f"{count:,}", f"{count / summary.images:.1%}")
    console.print(table)
    left = f", {len(summary.broken):,} left out" if summary.broken else ""
    rate = summary.images / max(summary.seconds, 1e-9)
    console.print(
        f"{summary.images:,} images{left}, {summary.seconds:.1f} s, {rate:.1f} images/s",
        f"written: {summary.output}"
        if summary.output is not None
        else "output=FILE.csv, .jsonl or .parquet keeps what is predicted of each",
        sep="\n",
        soft_wrap=True,
    )


def show_prediction(prediction: Prediction) -> None:
    """Print the classes of one image with their probabilities, and its conformal set."""
    from rich.table import Table

    console = _make_console()
    console.print(show_line(prediction.name), soft_wrap=True)
    table = Table(show_header=False)
    for name, probability in prediction.ranking:
        table.add_row(name, f"{probability:.1%}", "█" * round(20 * probability))
    console.print(table)
    if prediction.chosen is not None and prediction.promise is not None:
        names = ", ".join(name for name, _ in prediction.chosen) or "no class fits"
        console.print(f"  set at {prediction.promise:.0%}: {names}", soft_wrap=True)


def _describe(prediction: Prediction) -> dict[str, Any]:
    time = {} if prediction.time is None else {"time": prediction.time}
    if prediction.error is not None:
        return {"path": prediction.path, **time, "error": prediction.error}
    best = [{"class": name, "probability": p} for name, p in prediction.ranking]
    chosen = prediction.chosen
    sets = {} if chosen is None else {"set": [name for name, _ in chosen]}
    return {"path": prediction.path, **time, "predictions": best, **sets}


def _make_console() -> ShownConsole:
    from clip_adapt.cli.console import ShownConsole

    return ShownConsole()
