"""What a page says of retrieval, read from retrieval.csv."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median_low

from clip_adapt.errors import InputError
from clip_adapt.system.text.csv_text import read_table

# Besides the nearest texts: text1, cos1 and so on, as many as there are.
COLUMNS = ("path", "captions", "rank", "right", "right_cos", "wrong", "wrong_cos", "image_ranks")


@dataclass(frozen=True)
class ScoredText:
    """A text and its cosine with an image."""

    words: str
    cosine: float


@dataclass(frozen=True)
class Answer:
    """What was retrieved for one test image.

    Attributes:
        path: the image's file.
        captions: every text that is right for it.
        nearest: the nearest texts, right or wrong, the nearest first.
        rank: of the best right text among all texts; 1 is the first.
        right: the nearest right text.
        wrong: the nearest wrong text; None when every text is right.
        image_ranks: for each of the captions, the rank of its best image among all images.
    """

    path: str
    captions: list[str]
    nearest: list[ScoredText]
    rank: int
    right: ScoredText
    wrong: ScoredText | None
    image_ranks: list[int]

    @property
    def margin(self) -> float:
        """How much nearer the right text is than any wrong one; infinite without a wrong one."""
        return float("inf") if self.wrong is None else self.right.cosine - self.wrong.cosine

    @property
    def put_before(self) -> list[ScoredText]:
        """The wrong texts among the nearest that are at least as near as the right one."""
        return [t for t in self.nearest if t.words not in self.captions][: self.rank - 1]


@dataclass(frozen=True)
class RankRow:
    """How many images and how many captions have their best right answer at these ranks."""

    ranks: str
    images: int
    image_share: float
    captions: int
    caption_share: float


def read_answers(path: Path, remedy: str) -> list[Answer]:
    """Return the rows of retrieval.csv.

    Args:
        path: the file.
        remedy: what makes it anew, for the message.

    Raises:
        InputError: when it is missing, damaged, or of another kind or an older version.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = read_table(file)
            header = next(rows)
            _require_columns(header)
            found = [_read_row(dict(zip(header, row, strict=True))) for row in rows]
        if not found:
            raise ValueError("there is no image in it")
        return found
    except (OSError, ValueError, KeyError, StopIteration, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read as the retrieval of a run: {error!r}. Run again: {remedy}"
        ) from error


def _require_columns(header: Sequence[str]) -> None:
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise ValueError(f"there is no column {', '.join(missing)}")


def _read_row(row: Mapping[str, str]) -> Answer:
    captions, image_ranks = json.loads(row["captions"]), json.loads(row["image_ranks"])
    rank = int(row["rank"])
    _require_list(captions, str)
    _require_list(image_ranks, int)
    if len(captions) != len(image_ranks) or min(rank, *image_ranks) < 1:
        raise ValueError(f"the ranks of {row['path']} do not fit its captions")
    near = [name.removeprefix("text") for name in row if name.startswith("text")]
    return Answer(
        row["path"],
        captions,
        [ScoredText(row[f"text{i}"], float(row[f"cos{i}"])) for i in near],
        rank,
        ScoredText(row["right"], float(row["right_cos"])),
        ScoredText(row["wrong"], float(row["wrong_cos"])) if row["wrong_cos"] else None,
        image_ranks,
    )


def _require_list(values: object, kind: type) -> None:
    if not isinstance(values, list) or not values or {type(v) for v in values} != {kind}:
        raise ValueError(f"expected a list of {kind.__name__}, not {values!r}")


def count_ranks(answers: Iterable[Answer], cuts: Sequence[int]) -> list[RankRow]:
    """Return how many images and captions have ranks up to each cut, and beyond the last.

    Args:
        answers: of all test images.
        cuts: ranks that recall is measured at, in rising order.
    """
    answers = list(answers)
    of_images = [answer.rank for answer in answers]
    of_captions = [rank for answer in answers for rank in answer.image_ranks]
    edges = [0, *cuts, float("inf")]
    rows = []
    for low, high in pairwise(edges):
        images, captions = (
            sum(low < rank <= high for rank in ranks) for ranks in (of_images, of_captions)
        )
        shares = images / len(of_images), captions / len(of_captions)
        rows.append(RankRow(_name_ranks(low, high), images, shares[0], captions, shares[1]))
    return rows


def _name_ranks(low: float, high: float) -> str:
    if high == float("inf"):
        return f"beyond {low:.0f}"
    return f"{high:.0f}" if high == low + 1 else f"{low + 1:.0f} to {high:.0f}"


def choose_misses(answers: Sequence[Answer], limit: int) -> list[Answer]:
    """Return the images whose right texts are not first, those of the worst ranks first."""
    misses = [answer for answer in answers if answer.rank > 1]
    return sorted(misses, key=lambda answer: -answer.rank)[:limit]


def choose_hits(answers: Sequence[Answer], limit: int) -> list[Answer]:
    """Return the images whose right text is first, those of the smallest margins first."""
    hits = [answer for answer in answers if answer.rank == 1]
    return sorted(hits, key=lambda answer: answer.margin)[:limit]


def find_medians(answers: Iterable[Answer]) -> tuple[int, int]:
    """Return the ranks that half of the images, and half of the captions, do not exceed."""
    answers = list(answers)
    of_captions = [rank for answer in answers for rank in answer.image_ranks]
    return median_low(answer.rank for answer in answers), median_low(of_captions)


def estimate_chance(answers: Sequence[Answer]) -> tuple[float, float]:
    """Return what recall at 1 would be by chance: image to text, and text to image."""
    n_images: dict[str, int] = {}
    for answer in answers:
        for text in answer.captions:
            n_images[text] = n_images.get(text, 0) + 1
    counts = [len(answer.captions) for answer in answers]
    pairs = [n_images[text] for answer in answers for text in answer.captions]
    return (
        sum(counts) / len(counts) / len(n_images),
        sum(pairs) / len(pairs) / len(answers),
    )
