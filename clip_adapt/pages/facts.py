"""What a page says of a run, read from the files in the run's folder."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from clip_adapt.config import yamls
from clip_adapt.data.leaks import Twin
from clip_adapt.errors import InputError
from clip_adapt.system import reading
from clip_adapt.system.run_files import (
    ADAPTER,
    CONFIG,
    FINISHED,
    IMAGES,
    INDEX,
    METRICS,
    PREDICTIONS,
    SUPPORT,
    SWEEP_LOCK,
    TWINS,
    UNFINISHED,
)
from clip_adapt.system.text.csv_text import read_table


@dataclass(frozen=True)
class ImagePredictions:
    """What was predicted for every test image.

    Attributes:
        paths: image files (N).
        classes: class names (C).
        labels: true classes (N,).
        probabilities: (N, C).
    """

    paths: list[str]
    classes: list[str]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each image (N,)."""
        return self.probabilities.argmax(1)

    @property
    def confidence(self) -> NDArray[np.float64]:
        """The probability of the predicted class (N,)."""
        return self.probabilities.max(1)


@dataclass(frozen=True)
class Facts:
    """A finished run.

    Attributes:
        folder: where its files lie.
        metrics: metrics.json.
        config: config.yaml.
        config_text: the same, as it stands there.
    """

    folder: Path
    metrics: dict[str, Any]
    config: dict[str, Any]
    config_text: str

    @property
    def command(self) -> str:
        """The command line that gives this run."""
        return str(self.metrics.get("command", ""))

    @property
    def adapter(self) -> str:
        """Where the delta lies when the run is finished."""
        return (self.home / ADAPTER).as_posix()

    @property
    def home(self) -> Path:
        """Where the page lies when the run is finished."""
        return self.folder.parent if self.folder.name == UNFINISHED else self.folder

    @property
    def date(self) -> str:
        """When the run ended, in UTC; nothing for runs that hold no date."""
        return str(self.metrics.get("date") or "")

    @property
    def index(self) -> str | None:
        """The address of the index over runs that this one stands in; None when there is none.

        A sweep that is at work writes its index at its end.
        """
        for up, folder in zip(("..", "../.."), self.home.absolute().parents, strict=False):
            if (folder / SWEEP_LOCK).is_file() or _is_ours(folder / INDEX):
                return f"{up}/{INDEX}"
        return None

    def link_file(self, path: str) -> str:
        """Return the address of a file as the page links to it."""
        try:
            near = os.path.relpath(os.path.abspath(path), self.home.absolute())
        except ValueError:  # another drive of Windows
            return Path(path).absolute().as_uri()
        return quote(os.fsencode(near.replace(os.sep, "/")))

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.config["method"]["name"])

    @property
    def title(self) -> str:
        """The method's name and, when ``method=auto`` chose it, that."""
        return f"auto: {self.method}" if self.metrics.get("choice") else self.method

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return str(self.config["dataset"]["name"])

    @property
    def model(self) -> str:
        """The backbone's name."""
        return str(self.config["model"]["name"])

    def predictions(self) -> ImagePredictions:
        """Return predictions.csv.

        Raises:
            InputError: when it is missing or not what a run writes.
        """
        return _read_predictions(self.folder / PREDICTIONS)

    def support(self) -> list[dict[str, Any]]:
        """Return the rows of support.jsonl: path, split, and label or captions.

        Raises:
            InputError: when it is damaged.
        """
        return self._read_rows(SUPPORT)

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of the pictures that the page may show, by their paths.

        Raises:
            InputError: when a file of them is damaged.
        """
        rows = [*self._read_rows(SUPPORT), *self._read_rows(IMAGES)]
        known = [row for row in rows if isinstance(row, dict)]
        return {str(row.get("path")): str(row.get("sha256")) for row in known}

    def _read_rows(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        if not path.is_file():
            return []
        try:
            lines = reading.read_text(path).split("\n")
            return [reading.parse_json(line, str(path)) for line in lines if line]
        except InputError as error:
            raise InputError(f"{error}. Run again: {self.command}") from error

    def near_duplicates(self) -> list[Twin]:
        """Return the rows of near_duplicates.csv.

        Raises:
            InputError: when it is damaged.
        """
        path = self.folder / TWINS
        if not path.is_file():
            return []
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = read_table(file)
                next(rows)  # the names of the columns
                return [Twin(a, split, b, other, int(bits)) for a, split, b, other, bits in rows]
        except (ValueError, StopIteration, csv.Error) as error:
            raise InputError(f"{path} is damaged: {error!r}. Run again: {self.command}") from error


def read(folder: Path, metrics: dict[str, Any] | None = None) -> Facts:
    """Return the facts of a run.

    Args:
        folder: the run's folder.
        metrics: in place of metrics.json, which a run writes last.

    Raises:
        InputError: when the folder holds no finished run.
    """
    config_file = folder / CONFIG
    for path in [config_file] + [folder / METRICS] * (metrics is None):
        if not path.is_file():
            raise InputError(f"{folder} holds no finished run: {path.name} is missing")
    require_own(config_file)  # it stands on the page as it is
    text = reading.read_text(config_file)
    return Facts(
        folder, metrics or _read_json(folder / METRICS), yamls.read_yaml(config_file), text
    )


def require_own(path: Path) -> None:
    """Refuse a file of a run's folder that is a link to a file elsewhere.

    Raises:
        InputError: when it is one.
    """
    if not path.resolve().is_relative_to(path.parent.resolve()):
        raise InputError(
            f"{path} is a link that leads out of its folder, and would be put on a page: copy the "
            "file there if it belongs there"
        )


def find_finished(folder: Path) -> list[Path]:
    """Return the folders of all finished runs in and below a folder, in order of their names."""
    found = (path.parent for path in folder.rglob(METRICS))
    return sorted(
        path
        for path in found
        if (path / CONFIG).is_file() and path.name not in (UNFINISHED, FINISHED)
    )


def _is_ours(page: Path) -> bool:
    # Any folder may hold an index.html of somebody else's.
    try:
        with open(page, encoding="utf-8", errors="replace") as file:
            return 'name="generator" content="clip_adapt"' in file.read(1000)
    except OSError:
        return False


def _read_json(path: Path) -> dict[str, Any]:
    held = reading.read_json(path)
    if not isinstance(held, dict) or not isinstance(held.get("test"), dict):
        raise InputError(f"{path} holds no metrics of a run. Remove it and run again.")
    return held


def _read_predictions(path: Path) -> ImagePredictions:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = read_table(file)
            header = next(rows)
            columns = [i for i, name in enumerate(header) if name.startswith("p:")]
            classes = [header[i][2:] for i in columns]
            body = list(rows)
        if not body or not classes:
            raise ValueError("there is no image or no class in it")
        of_name = {name: label for label, name in enumerate(classes)}
        where, label = header.index("path"), header.index("label")
        return ImagePredictions(
            [row[where] for row in body],
            classes,
            np.array([of_name[row[label]] for row in body], dtype=np.int64),
            np.array([[float(row[i]) for i in columns] for row in body], dtype=np.float64),
        )
    except (OSError, ValueError, KeyError, StopIteration, IndexError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as predictions of a run: {error!r}") from error
