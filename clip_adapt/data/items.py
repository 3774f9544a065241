"""Images with their labels, and subsets of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clip_adapt.config.cards import SPLITS
from clip_adapt.data.inventory import Inventory
from clip_adapt.system.files import hash_file
from clip_adapt.system.reading import make_path
from clip_adapt.system.text.showing import write_json


@dataclass(frozen=True, slots=True)
class Item:
    """One image: its file, the index of its class, and the group (patient, site) it belongs to.

    An image with captions has no class, and label 0.
    """

    path: str
    label: int
    group: str | None = None
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Splits:
    """What a source reads: class names as they are stored, and the items of each split.

    ``drawn`` says that train and val are a few-shot subset already, to be used as it is;
    ``inventory`` says what was used and what was passed over; ``unsplit`` says that the data set
    has no splits and that all its images stand in test (``Context.measures``).
    """

    classes: list[str]
    train: list[Item]
    val: list[Item]
    test: list[Item]
    drawn: bool = False
    inventory: Inventory = field(default_factory=Inventory)
    unsplit: bool = False

    @classmethod
    def of(
        cls, classes: list[str], parts: Mapping[str, list[Item]], inventory: Inventory | None = None
    ) -> Splits:
        """Return the splits of items by split."""
        return cls(
            classes, parts["train"], parts["val"], parts["test"], inventory=inventory or Inventory()
        )

    def parts(self) -> dict[str, list[Item]]:
        """Return the items by split, in the order train, val, test."""
        return {split: getattr(self, split) for split in SPLITS}


@dataclass(frozen=True)
class Context:
    """What a source may use besides its own options.

    Attributes:
        cache: where caches lie.
        data: where the data sets of cards that ship lie.
        download: whether the user allowed a download.
        measures: whether the data set is only measured on. A source then gives what is there: one
            class or one split is enough, and images without splits all stand in test.
    """

    cache: Path
    data: Path = Path("data")
    download: bool = False
    measures: bool = False

    def place(self, path: str) -> Path:
        """Return a path of a card: that of a card that ships is relative to the data folder."""
        return self.data / make_path(path)


@dataclass(frozen=True)
class Support:
    """The labelled images that adaptation may see.

    Attributes:
        train: the support set, in the order of the draw.
        val: the validation subset; may be empty.
        shots: what was asked for; 0 where all images are taken, which no number is asked for.
        notes: what a user should know about the draw (classes with fewer images than shots).
    """

    train: list[Item]
    val: list[Item]
    shots: int
    notes: list[str] = field(default_factory=list)

    def count_largest(self) -> int:
        """Return how many training images the largest class has, at least ``shots``."""
        return max([self.shots, *Counter(item.label for item in self.train).values()])

    def manifest(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """Return a row (path, sha256, label, split) for every image that was drawn."""
        return [
            {"path": i.path, "sha256": hash_file(i.path), "label": classes[i.label], "split": split}
            for split, items in (("train", self.train), ("val", self.val))
            for i in items
        ]


def format_manifest(rows: Iterable[dict[str, Any]]) -> str:
    """Return manifest rows as JSON lines."""
    return "".join(write_json(row) + "\n" for row in rows)
